"""A module ``cudnn`` that keeps to the part of the graph API that attention in float8 uses, and computes on the CPU.

It computes what cuDNN documents: e4m3 operands times their descales, probabilities and result rounded to e4m3 by the
scales given. It refuses what cuDNN refuses on Hopper.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

FLOAT8 = torch.float8_e4m3fn
LENGTHS = ("seq_len_q", "seq_len_kv")
SCALARS = ("descale_q", "descale_k", "descale_v", "descale_s", "scale_s", "scale_o")


class DataType(Enum):
    FP8_E4M3 = 1
    FLOAT = 2
    INT32 = 3


DTYPES = {DataType.FP8_E4M3: FLOAT8, DataType.FLOAT: torch.float32, DataType.INT32: torch.int32}


class FakeTensor:
    def __init__(self, dim: list[int], stride: list[int], data_type: DataType, name: str, uid: int) -> None:
        self.dim, self.stride, self.data_type, self.name, self.uid = dim, stride, data_type, name, uid

    def __getattr__(self, name: str) -> Any:
        def setter(value: Any) -> FakeTensor:
            setattr(self, name.removeprefix("set_"), value)
            return self

        if name.startswith("set_"):
            return setter
        raise AttributeError(name)


class FakeGraph:
    built: list[FakeGraph] = []

    def __init__(self, **options: Any) -> None:
        self.options, self.steps, self.runs = options, [], 0
        self.tensors: dict[str, FakeTensor] = {}
        FakeGraph.built.append(self)

    def tensor(self, **given: Any) -> FakeTensor:
        self.tensors[given["name"]] = FakeTensor(**given)
        return self.tensors[given["name"]]

    def sdpa_fp8(
        self, *, attn_scale: float, generate_stats: bool, use_padding_mask: bool, **tensors: FakeTensor
    ) -> list[FakeTensor | None]:
        assert set(tensors) == {"q", "k", "v", *SCALARS, *LENGTHS}
        assert use_padding_mask
        assert not generate_stats
        self.attn_scale = attn_scale
        for name in ("out", "amax_s", "amax_o"):
            self.tensors[name] = FakeTensor([], [], DataType.FLOAT, name, -1)
        return [self.tensors["out"], None, self.tensors["amax_s"], self.tensors["amax_o"]]

    def __getattr__(self, name: str) -> Any:
        if name in ("validate", "build_operation_graph", "create_execution_plans", "check_support", "build_plans"):
            return lambda *_: self.steps.append(name)
        raise AttributeError(name)

    def get_workspace_size(self) -> int:
        return 16

    def execute(self, buffers: dict[int, Tensor], workspace: Tensor, handle: Any) -> None:
        assert self.steps[-1] == "build_plans"
        assert workspace.nbytes >= 16
        self.runs += 1
        x = {name: self._buffer(tensor, buffers) for name, tensor in self.tensors.items()}
        assert x["out"].dtype == FLOAT8  # Hopper returns nothing wider
        q, k, v = (x[name].float() * x[f"descale_{name}"] for name in ("q", "k", "v"))
        scores = q @ k.mT * self.attn_scale
        assert (x["seq_len_q"] == q.shape[2]).all()
        scores = scores.masked_fill(torch.arange(k.shape[2]) >= x["seq_len_kv"], -torch.inf)
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        rounded = (weights * x["scale_s"]).to(FLOAT8).float() * x["descale_s"]
        out = rounded @ v / weights.sum(-1, keepdim=True) * x["scale_o"]
        assert out.abs().max() < 464  # what would not round to 448
        x["out"].copy_(out.to(FLOAT8))

    def _buffer(self, tensor: FakeTensor, buffers: dict[int, Tensor]) -> Tensor:
        """The memory as the graph describes it, whatever shape the caller's tensor has."""
        buffer = buffers[tensor.uid]
        assert buffer.dtype == DTYPES[tensor.data_type]
        return buffer.as_strided(tensor.dim, tensor.stride)


def install(monkeypatch) -> ModuleType:
    """Make ``import cudnn`` find this, and let code for the GPU run on the CPU."""
    module = ModuleType("cudnn")
    module.data_type = DataType
    module.heur_mode = SimpleNamespace(A="A", FALLBACK="FALLBACK")
    module.pygraph = FakeGraph
    module.create_handle = object
    module.set_stream = lambda handle, stream: None
    FakeGraph.built.clear()
    monkeypatch.setitem(sys.modules, "cudnn", module)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    return module
