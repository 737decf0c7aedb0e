"""An exported DiT run by ONNX Runtime, called like ``HumoDiT``: torch tensors by address, no copies.

Runs wherever ONNX Runtime does, so it checks an export without the card an engine needs. Knows ONNX Runtime's CPU and
CUDA providers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from humo_rt.model.dit import HumoDiT
from humo_rt.tensorrt import bindings
from humo_rt.tensorrt.bindings import Size
from humo_rt.tensorrt.graph_dit import GraphDiT, require_same_model
from humo_rt.tensorrt.network import read_graph
from humo_rt.tensorrt.packages import require
from humo_rt.tensorrt.source import Source, require_same_weights
from humo_rt.tensorrt.spec import GraphSpec

if TYPE_CHECKING:
    import onnxruntime

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

# What the model computes in float32, it computes in float32; and beside PyTorch there is no memory to reserve.
_CUDA_OPTIONS = {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}


class OnnxDiT(GraphDiT):
    """Make one with ``OnnxDiT.load``."""

    def __init__(
        self, dit: HumoDiT, spec: GraphSpec, session: onnxruntime.InferenceSession, device: torch.device, source: str
    ) -> None:
        super().__init__(dit, spec, source)
        self._session = session
        self._device = device

    @classmethod
    def load(
        cls,
        path: str | Path,
        dit: HumoDiT,
        *,
        loaded_from: Source | None = None,
        device: torch.device | str | None = None,
        profile: Path | None = None,
    ) -> OnnxDiT:
        """Open ``path`` on ``device``, by default that of ``dit``, which projects text and audio.

        ``loaded_from``: where the weights of ``dit`` came from, for errors.
        ``profile``: start of the name of a file to record every node's time and place in, until ``finish_profile``.

        Raises:
            ValueError: no ONNX file, not exported by this project, of another model or opset, of other weights than
                ``dit``, without its weights, or with plugins.
            RuntimeError: ONNX Runtime is missing, has no support for the device, or cannot run the graph.
        """
        require("onnx", "onnxruntime")
        path = Path(path)
        device = torch.device(device or next(dit.parameters()).device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        graph = read_graph(path)
        spec = graph.spec
        if spec.plugins:
            raise ValueError(f"{path} holds TensorRT plugins: build an engine of it, or export it without --plugins")
        require_same_model(dit.config, spec.config, str(path))
        require_same_weights(graph.origin, spec, dit, file=path, loaded=loaded_from, onnx=path)
        return cls(dit, spec, _open(path, spec, device, profile), device, str(path))

    def finish_profile(self) -> Path:
        """Write the record that ``load`` was asked for; returns its file."""
        return Path(self._session.end_profiling())

    def run(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        size = Size.of_latents(inputs[bindings.LATENTS])
        outputs = {
            binding.name: torch.empty(binding.shape(size, self.config), dtype=binding.dtype, device=self._device)
            for binding in self.spec.outputs
        }
        io = self._session.io_binding()
        for name, tensor in inputs.items():
            if tensor.device != self._device:
                raise ValueError(f"{name} is on {tensor.device}, {self.source} runs on {self._device}: move it")
            io.bind_input(name, *_placed(tensor))
        for name, tensor in outputs.items():
            io.bind_output(name, *_placed(tensor))
        # ONNX Runtime has a stream of its own and returns when it is done.
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        with _errors_in_a_line(f"run {self.source} for {size}"):
            self._session.run_with_iobinding(io)
        return outputs


def _open(path: Path, spec: GraphSpec, device: torch.device, profile: Path | None) -> onnxruntime.InferenceSession:
    import onnxruntime

    provider = _PROVIDERS[device.type]
    if device.type == "cuda":
        onnxruntime.preload_dlls()  # the CUDA libraries that torch brought
    if provider not in onnxruntime.get_available_providers():
        # Both distributions write into the same folder, so the one for CPUs has to go first.
        raise RuntimeError(
            f"onnxruntime {onnxruntime.__version__} cannot run on {device}: pip uninstall -y onnxruntime, then "
            "pip install onnxruntime-gpu"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    place = {"device_id": device.index} | _CUDA_OPTIONS if device.type == "cuda" else {}
    with _errors_in_a_line(f"load {path}", without_kernels=_without_kernels(spec, device)):
        return onnxruntime.InferenceSession(str(path), options, providers=[(provider, place)])


def _without_kernels(spec: GraphSpec, device: torch.device) -> str:
    """What to do when ONNX Runtime has no kernel for one of the graph's nodes."""
    if spec.precision in ("float32", "float16"):
        return "a newer onnxruntime may have one"
    return f"it does not run {spec.precision} on {device.type}: humo-rt export --precision float16"


@contextmanager
def _errors_in_a_line(doing: str, *, without_kernels: str = "") -> Iterator[None]:
    """ONNX Runtime's errors as ``RuntimeError`` with their first line; its classes share no base of their own."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        fix = f"; {without_kernels}" if type(error).__name__ == "NotImplemented" and without_kernels else ""
        raise RuntimeError(f"ONNX Runtime cannot {doing}: {str(error).strip().splitlines()[0]}{fix}") from error


def _placed(tensor: Tensor) -> tuple[Any, ...]:
    """Device, its index, element type, shape and address, as ONNX Runtime's bindings take them."""
    from onnx import TensorProto

    types = {
        torch.float32: TensorProto.FLOAT,
        torch.float16: TensorProto.FLOAT16,
        torch.bfloat16: TensorProto.BFLOAT16,
    }
    place = tensor.device
    return place.type, place.index or 0, types[tensor.dtype], tuple(tensor.shape), tensor.data_ptr()
