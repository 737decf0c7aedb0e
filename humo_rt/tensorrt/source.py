"""The PyTorch weights that a graph was exported from: loaded for the export, and found again to verify it.

Loads the DiT alone, so that exporting a model needs no memory for its text encoder. Knows ``humo_rt.weights``; nothing
of graphs other than their metadata.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from humo_rt.model.dit import HumoDiT
from humo_rt.tensorrt.packages import require
from humo_rt.weights.load import fp8_scales, load_into
from humo_rt.weights.memory import available_memory, check_memory
from humo_rt.weights.modules import build_on_meta, float32_rule, parameter_bytes, part_dtype
from humo_rt.weights.names import renames
from humo_rt.weights.random_init import fill_random
from humo_rt.weights.readers import read_checkpoint
from humo_rt.weights.resolve import select

SOURCE_KEY = "humo_rt.source"


@dataclass(frozen=True, kw_only=True)
class Source:
    """``model`` and ``weights`` as ``Pipeline.from_pretrained`` takes them."""

    model: str
    weights: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def load_dit(source: Source, *, dtype: torch.dtype, device: torch.device) -> HumoDiT:
    """The DiT of ``source`` in evaluation mode. Errors are those of ``load_components``."""
    selection = select(source.model, source.weights)
    config = selection.config
    dit = build_on_meta(config)["dit"]
    needed = sum(parameter_bytes({"dit": dit}, dtype).values())
    check_memory(needed, available_memory(device), f"loading the DiT of {config.name} on {device}")
    part = {"dtype": part_dtype("dit", dtype), "device": device}
    if selection.files is None:
        fill_random(dit, part="dit", seed=0, **part)
    else:
        load_into(
            dit,
            read_checkpoint(selection.files.dit_files),
            rename=renames(config.vae.num_res_blocks)["dit"],
            optional=(),
            keep_float32=float32_rule(dit),
            source=str(selection.files.dit),
            **part,
        )
    return dit.eval().requires_grad_(False)


def fp8_scales_of(source: Source) -> dict[str, Tensor]:
    """Scales by weight name that the checkpoint of ``source`` brings for fp8; empty when it is stored in no fp8."""
    selection = select(source.model, source.weights)
    if selection.files is None:
        return {}
    rename = renames(selection.config.vae.num_res_blocks)["dit"]
    return fp8_scales(read_checkpoint(selection.files.dit_files), rename=rename, source=str(selection.files.dit))


def source_of(onnx: Path) -> Source | None:
    """What the export wrote about where its weights came from; None if it did not say, or the file is gone.

    ``RuntimeError`` if the package onnx is missing, which running an engine does not need.
    """
    if not onnx.is_file():
        return None
    require("onnx")
    import onnx as onnx_package

    model = onnx_package.load(onnx, load_external_data=False)
    stored = {entry.key: entry.value for entry in model.metadata_props}.get(SOURCE_KEY)
    return None if stored is None else Source(**json.loads(stored))
