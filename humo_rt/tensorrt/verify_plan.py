"""Which weights, sizes and device a comparison with PyTorch uses, read from the file itself.

Knows ONNX files and engine headers; runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from humo_rt.tensorrt.bindings import Size
from humo_rt.tensorrt.engine_file import SUFFIX, read_header
from humo_rt.tensorrt.loading import require_gpu
from humo_rt.tensorrt.network import read_graph
from humo_rt.tensorrt.packages import require
from humo_rt.tensorrt.profiles import model_of, profiles_for
from humo_rt.tensorrt.source import Source, source_of
from humo_rt.tensorrt.spec import GraphSpec
from humo_rt.tensorrt.verify import sizes_of

# Small enough for a CPU, every axis different.
_SMALL = (Size(branches=1, frames=2, height=4, width=6), Size(branches=4, frames=3, height=8, width=12))


@dataclass(frozen=True, kw_only=True)
class VerifyPlan:
    """``sizes``: smallest first; the last one is timed."""

    spec: GraphSpec
    source: Source
    sizes: tuple[Size, ...]
    device: torch.device


def plan_of(path: Path, source: Source | None) -> VerifyPlan:
    """Plan for ``path``. ``source``: the weights to compare with; default: those named by the export.

    An engine runs at the sizes of its profiles on the GPU. An ONNX file runs at those of its preset on a GPU and at
    small ones on the CPU. ``ValueError`` if the file is neither, or the weights cannot be found; ``RuntimeError``
    for an engine without a GPU.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if path.suffix == SUFFIX:
        header = read_header(path)
        require_gpu(header, path)
        spec, onnx, sizes = header.spec, Path(header.onnx), sizes_of(header.profiles)
        device = torch.device("cuda")
    elif path.suffix == ".onnx":
        require("onnx")
        spec, onnx = read_graph(path).spec, path
        large = device.type == "cuda" and model_of(spec.config) is not None
        sizes = sizes_of(profiles_for(spec.config)) if large else _SMALL
    else:
        raise ValueError(f"{str(path)!r} is neither .onnx nor .engine: give what humo-rt export or build-engine wrote")
    source = source or source_of(onnx)
    if source is None:
        raise ValueError(
            f"the weights of {path} are unknown, since {onnx} does not name them or is gone: give --preset, --weights"
        )
    return VerifyPlan(spec=spec, source=source, sizes=tuple(sizes), device=device)
