"""The DiT outside PyTorch: ONNX export, ONNX Runtime sessions and TensorRT engines, called like the module.

Imported on demand; nothing in the rest of the package needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from humo_rt.model.dit import HumoDiT
    from humo_rt.tensorrt.graph_dit import GraphDiT


def open_dit(path: str | Path, dit: HumoDiT) -> GraphDiT:
    """The graph in ``path``, called like ``dit``, which projects text and audio for it.

    ``.onnx`` runs in ONNX Runtime on the device of ``dit``, ``.engine`` in TensorRT on the current GPU. ``ValueError``
    for a file that is neither or was made of another model, ``RuntimeError`` when the package or the card is missing.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        from humo_rt.tensorrt.session import OnnxDiT

        return OnnxDiT.load(path, dit)
    if path.suffix == ".engine":
        from humo_rt.tensorrt.engine import Engine

        return Engine.load(path, dit)
    raise ValueError(f"{str(path)!r} is neither .onnx nor .engine: write one with humo-rt export or build-engine")
