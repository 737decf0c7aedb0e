"""Which weights, sizes and device a comparison with PyTorch uses, read from the file itself.

Knows ONNX files and engine headers; runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from humo_rt.tensorrt.bindings import Size
from humo_rt.tensorrt.engine import require_loadable
from humo_rt.tensorrt.engine_file import SUFFIX
from humo_rt.tensorrt.network import read_graph
from humo_rt.tensorrt.packages import require
from humo_rt.tensorrt.profiles import model_of, profiles_for
from humo_rt.tensorrt.source import Source, require_here
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


def plan_of(path: Path, source: Source | None, *, onnx: Path | None = None) -> VerifyPlan:
    """Plan for ``path``. ``source``: the weights to compare with; default: those named by the export.

    ``onnx``: the file an engine takes its weights from, where it is not the one it was built from.
    An engine runs at the sizes of its profiles on the GPU. An ONNX file runs at those of its preset on a GPU and at
    small ones on the CPU. ``ValueError`` if the file is neither, the weights cannot be found, or the engine is for
    another card or version or lacks its weights; ``RuntimeError`` for an engine without a GPU or TensorRT.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if path.suffix == SUFFIX:
        header, _, weights = require_loadable(path, onnx=onnx)
        origin = header.origin if weights is None else weights.origin
        spec, sizes = header.spec, sizes_of(header.profiles)
        device = torch.device("cuda")
    elif path.suffix == ".onnx":
        require("onnx")
        graph = read_graph(path)
        spec, origin = graph.spec, graph.origin
        large = device.type == "cuda" and model_of(spec.config) is not None
        sizes = sizes_of(profiles_for(spec.config)) if large else _SMALL
    else:
        raise ValueError(f"{str(path)!r} is neither .onnx nor .engine: give what humo-rt export or build-engine wrote")
    if source is None:
        if origin.source is None:
            raise ValueError(f"{path} does not name the weights it was exported from: give --preset, --weights")
        require_here(origin.source, path)
    return VerifyPlan(spec=spec, source=source or origin.source, sizes=tuple(sizes), device=device)
