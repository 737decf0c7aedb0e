"""A DiT as an ONNX file, through ``torch.export``: branches, frames, height and width stay free.

ONNX Runtime and TensorRT's parsers both read the opset. See docs/onnx.md for which operators of the model became single
nodes. Knows nothing of runtimes.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from humo_rt.model.dit import HumoDiT
from humo_rt.tensorrt.audio_node import audio_attention_nodes
from humo_rt.tensorrt.bindings import Size
from humo_rt.tensorrt.exportable import ExportableDiT
from humo_rt.tensorrt.fingerprint import Fingerprint
from humo_rt.tensorrt.fp8 import is_quantized
from humo_rt.tensorrt.onnx_file import EMBEDDED_BYTES, Progress, write_onnx
from humo_rt.tensorrt.packages import require
from humo_rt.tensorrt.source import ORIGIN_KEY, Origin, Source
from humo_rt.tensorrt.spec import METADATA_KEY, OPSET, GraphSpec

if TYPE_CHECKING:
    import onnx_ir
    from torch.export import ExportedProgram

# Every axis differs from every other and from 1, so that no two can be mistaken for one.
_EXAMPLE = Size(branches=2, frames=3, height=8, width=12)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written. ``data``: the file beside ``path`` that holds the weights, None when ``path`` holds them.

    ``nodes``: how many of each operator, most frequent first.
    """

    path: Path
    data: Path | None
    spec: GraphSpec
    nodes: dict[str, int]

    @property
    def nbytes(self) -> int:
        return sum(file.stat().st_size for file in (self.path, self.data) if file is not None)


def export_onnx(
    dit: HumoDiT,
    path: str | Path,
    *,
    face_mask: bool = False,
    mask_predictor: bool = False,
    plugins: bool = False,
    source: Source | None = None,
    embedded_bytes: int = EMBEDDED_BYTES,
    progress: Progress | None = None,
) -> Exported:
    """Write ``dit`` to ``path`` in the precision of its weights, or in fp8 after ``fp8.quantize``.

    Args:
        path: ends in ``.onnx``. More than ``embedded_bytes`` of weights go into a file of their own beside it.
        face_mask: give the graph the input ``face_mask``.
        mask_predictor: give it the output ``face_mask_logits``.
        plugins: make audio attention the node of ``audio_node``; the graph then runs in TensorRT only.
        source: where the weights came from, noted in the file so that ``humo-rt verify-engine`` finds them.
        progress: called as (stage, done, total).

    Raises:
        ValueError: a path that cannot be written to, or ``mask_predictor`` of a model that has none.
        RuntimeError: onnx or onnxscript is missing, or the disk is full; nothing half-written is left.
    """
    require("onnx", "onnxscript")
    from humo_rt.tensorrt.simplify import simplify

    path = Path(path)
    require_output(path)
    if mask_predictor and dit.mask_predictor is None:
        raise ValueError("this model has no mask predictor: load weights that carry one, or export without it")
    report = progress or (lambda stage, done, total: None)
    spec = GraphSpec(
        config=dit.config,
        dtype=dit.blocks[0].cross_attn.k.weight.dtype,
        face_mask=face_mask,
        mask_predictor=mask_predictor,
        fp8=is_quantized(dit),
        plugins=plugins,
    )
    with quiet_exporter(), audio_attention_nodes(dit) if plugins else nullcontext():
        report("tracing", 0, 3)
        traced = trace(ExportableDiT(dit, mask_predictor=mask_predictor), spec, dit.patch_embedding.weight.device)
        report("translating", 1, 3)
        model = _translate(traced, spec)
        model.metadata_props[ORIGIN_KEY] = Origin(source=source, fingerprint=Fingerprint.of(dit)).to_json()
        report("simplifying", 2, 3)
        simplify(model, fuse=True)
    nodes = dict(Counter(node.op_type for node in model.graph).most_common())
    data = write_onnx(model, path, embedded_bytes=embedded_bytes, progress=progress)
    return Exported(path=path, data=data, spec=spec, nodes=nodes)


def require_output(path: Path) -> None:
    """``ValueError`` unless an ONNX file can be written to ``path``, said before the minutes of an export."""
    if path.suffix != ".onnx":
        raise ValueError(f"{str(path)!r} must end in .onnx: name the file so")
    if not path.parent.is_dir():
        raise ValueError(f"output folder {str(path.parent)!r} does not exist: create it first")


@torch.no_grad()
def trace(module: ExportableDiT, spec: GraphSpec, device: torch.device) -> ExportedProgram:
    """The ATen graph of ``module`` with the free axes of ``spec``'s inputs."""
    frames, rows, columns = (torch.export.Dim(name, min=1) for name in ("frames", "rows", "columns"))
    _, patch_height, patch_width = spec.config.patch_size
    axes = {
        "branches": torch.export.Dim("branches", min=1),
        "frames": frames,
        "rows": rows,
        "columns": columns,
        "height": patch_height * rows,
        "width": patch_width * columns,
    }
    shapes = {
        binding.name: {index: axes[axis] for index, axis in enumerate(binding.axes) if isinstance(axis, str)}
        for binding in spec.inputs
    }
    inputs = {
        binding.name: torch.zeros(binding.shape(_EXAMPLE, spec.config), dtype=binding.dtype, device=device)
        for binding in spec.inputs
    }
    # torch 2.11 otherwise takes a comparison of strides, which holds for every size, for a limit on the sizes. Whether
    # a size works is for tests to say: what is deferred to run time does not reach the ONNX graph.
    deferred = {"prefer_deferred_runtime_asserts_over_guards": True}
    return torch.export.export(module.eval(), (), inputs, dynamic_shapes=shapes, strict=False, **deferred)


def _translate(traced: ExportedProgram, spec: GraphSpec) -> onnx_ir.Model:
    names = [binding.name for binding in spec.outputs]
    model = torch.onnx.export(
        traced, dynamo=True, opset_version=OPSET, output_names=names, optimize=False, verbose=False
    ).model
    found = [value.name for value in model.graph.inputs]
    assert found == [binding.name for binding in spec.inputs], found
    _name_axes(model, spec)
    _name_weights(model)
    model.graph.name = "dit"
    model.metadata_props[METADATA_KEY] = spec.to_json()
    return model


def _name_axes(model: onnx_ir.Model, spec: GraphSpec) -> None:
    """Call sizes what ``bindings`` calls them, in every shape the exporter inferred from its own names."""
    import onnx_ir

    names = {}
    for value, binding in zip(model.graph.inputs, spec.inputs, strict=True):
        pairs = zip(value.shape, binding.axes, strict=True)
        names |= {str(size): axis for size, axis in pairs if isinstance(axis, str)}
    simple = {name: axis for name, axis in names.items() if name.isidentifier()}

    def renamed(size: int | onnx_ir.SymbolicDim) -> int | str | None:
        if isinstance(size, int) or size.value is None:
            return size if isinstance(size, int) else None
        known = names.get(str(size))
        return known or re.sub(r"[A-Za-z_]\w*", lambda match: simple.get(match[0], match[0]), str(size))

    computed = (value for node in model.graph for value in node.outputs)
    for value in (*model.graph.inputs, *computed):
        if value.shape is not None:
            value.shape = onnx_ir.Shape([renamed(size) for size in value.shape])


def _name_weights(model: onnx_ir.Model) -> None:
    """Give weights the names they have in checkpoints."""
    for value in list(model.graph.initializers.values()):
        value.name = value.name.removeprefix("dit.")


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """PyTorch's exporter warns of what it does to itself: deprecations, absent torchvision."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
