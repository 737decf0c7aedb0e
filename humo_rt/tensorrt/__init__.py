"""The DiT outside PyTorch: ONNX export, ONNX Runtime sessions and TensorRT engines, called like the module.

Imported on demand; nothing in the rest of the package needs it.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from humo_rt.config import DiTConfig
    from humo_rt.model.dit import HumoDiT
    from humo_rt.tensorrt.graph_dit import GraphDiT
    from humo_rt.tensorrt.source import Source


@dataclass(frozen=True)
class DitEngine:
    """A graph to run the DiT from, where its path does not say it all.

    path: ``.onnx`` or ``.engine``.
    onnx, weight_budget: of an engine, see ``Engine.load``.
    """

    path: str | Path
    _: KW_ONLY
    onnx: str | Path | None = None
    weight_budget: int | None = None

    def __str__(self) -> str:
        return str(self.path)


def require_openable(graph: str | Path | DitEngine, config: DiTConfig) -> None:
    """Refuse what ``open_dit`` would refuse for a DiT of ``config``, as far as that can be said without its weights."""
    graph = _named(graph)
    path = Path(graph.path)
    from humo_rt.tensorrt.graph_dit import require_same_model

    if _is_onnx(graph):
        from humo_rt.tensorrt.network import read_graph
        from humo_rt.tensorrt.packages import require

        require("onnx", "onnxruntime")
        spec = read_graph(path).spec
    else:
        from humo_rt.tensorrt.engine import require_loadable

        spec = require_loadable(path, onnx=graph.onnx, weight_budget=graph.weight_budget)[0].spec
    require_same_model(config, spec.config, str(path))


def open_dit(graph: str | Path | DitEngine, dit: HumoDiT, *, loaded_from: Source | None = None) -> GraphDiT:
    """The graph in a file, called like ``dit``, which projects text and audio for it.

    ``.onnx`` runs in ONNX Runtime on the device of ``dit``, ``.engine`` in TensorRT on the current GPU. ``ValueError``
    for a file that is neither or was made of another model or of other weights than ``dit`` has, which came from
    ``loaded_from``; ``RuntimeError`` when the package or the card is missing.
    """
    graph = _named(graph)
    if _is_onnx(graph):
        from humo_rt.tensorrt.session import OnnxDiT

        return OnnxDiT.load(graph.path, dit, loaded_from=loaded_from)
    from humo_rt.tensorrt.engine import Engine

    options = {"onnx": graph.onnx, "weight_budget": graph.weight_budget}
    return Engine.load(graph.path, dit, loaded_from=loaded_from, **options)


def _named(graph: str | Path | DitEngine) -> DitEngine:
    return graph if isinstance(graph, DitEngine) else DitEngine(graph)


def _is_onnx(graph: DitEngine) -> bool:
    """``ValueError`` for a file that is no graph, and for options of engines given with an ONNX file."""
    suffix = Path(graph.path).suffix
    if suffix not in (".onnx", ".engine"):
        raise ValueError(f"{str(graph)!r} is neither .onnx nor .engine: write one with humo-rt export or build-engine")
    if suffix == ".onnx" and (graph.onnx, graph.weight_budget) != (None, None):
        given = (
            "an ONNX file for its weights" if graph.weight_budget is None else f"weight_budget={graph.weight_budget}"
        )
        raise ValueError(f"{str(graph)!r} holds its weights, {given} is for engines: leave it out")
    return suffix == ".onnx"
