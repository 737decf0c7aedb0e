"""The PyTorch weights that a graph was exported from: loaded for that, found again to verify it, told from others.

Loads the DiT alone, so that exporting a model needs no memory for its text encoder. Knows ``humo_rt.weights``; nothing
of graphs other than what they say of themselves.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from humo_rt.config import PRESETS
from humo_rt.model.dit import HumoDiT
from humo_rt.tensorrt.fingerprint import Fingerprint
from humo_rt.tensorrt.spec import GraphSpec
from humo_rt.weights.load import fp8_scales, load_into
from humo_rt.weights.memory import available_memory, check_memory
from humo_rt.weights.modules import build_on_meta, float32_rule, parameter_bytes, part_dtype
from humo_rt.weights.names import renames
from humo_rt.weights.random_init import fill_random
from humo_rt.weights.readers import read_checkpoint
from humo_rt.weights.resolve import select

if TYPE_CHECKING:
    from humo_rt.weights.components import Components

ORIGIN_KEY = "humo_rt.origin"


@dataclass(frozen=True, kw_only=True)
class Source:
    """``model`` and ``weights`` as ``Pipeline.from_pretrained`` takes them."""

    model: str
    weights: str | None = None

    @classmethod
    def of(cls, components: Components) -> Source:
        """What ``components`` were loaded from."""
        name, weights = components.config.name, components.weights
        return cls(model=name, weights=weights) if name in PRESETS or weights is None else cls(model=weights)

    @property
    def options(self) -> tuple[str, ...]:
        """Those of the command line that name it."""
        model = ("--preset" if self.model in PRESETS else "--weights", self.model)
        return model if self.weights is None else (*model, "--weights", self.weights)

    def __str__(self) -> str:
        return shlex.join(self.options)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The weights a graph was made of: where they came from, if the export was told, and what they are."""

    source: Source | None
    fingerprint: Fingerprint

    def to_json(self) -> str:
        source = None if self.source is None else asdict(self.source)
        return json.dumps({"source": source, "fingerprint": self.fingerprint.to_json()}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Origin:
        fields = json.loads(text)
        source = None if fields["source"] is None else Source(**fields["source"])
        return cls(source=source, fingerprint=Fingerprint.from_json(fields["fingerprint"]))


def load_dit(source: Source, *, dtype: torch.dtype, device: torch.device) -> HumoDiT:
    """The DiT of ``source`` in evaluation mode. Errors are those of ``load_components``.

    Random weights are drawn on the CPU, so that those of an export are found again on every device.
    """
    selection = select(source.model, source.weights)
    config = selection.config
    dit = build_on_meta(config)["dit"]
    needed = sum(parameter_bytes({"dit": dit}, dtype).values())
    check_memory(needed, available_memory(device), f"loading the DiT of {config.name} on {device}")
    part = {"dtype": part_dtype("dit", dtype), "device": device}
    if selection.files is None:
        fill_random(dit, part="dit", seed=0, **part | {"device": "cpu"})
        dit.to(device)
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


def require_here(source: Source, file: Path) -> None:
    """``ValueError`` with the options that name another place if ``source``, which ``file`` names, is not here."""
    try:
        select(source.model, source.weights)
    except ValueError as error:
        raise ValueError(
            f"{file} was exported from the weights of {source}, which are not on this machine ({error}): say where "
            "they are with --preset, --weights"
        ) from error


def require_same_weights(
    origin: Origin, spec: GraphSpec, dit: HumoDiT, *, file: Path, loaded: Source | None, onnx: Path, then: str = ""
) -> None:
    """``ValueError`` unless the graph of ``file`` was made of the weights of ``dit``.

    Keys and values would come from one checkpoint and blocks from another: a wrong video without a word.

    Args:
        loaded: where the weights of ``dit`` came from, for the error.
        onnx: what to export to instead; ``then``: what to do with it.
    """
    own = dit.blocks[0].cross_attn.k.weight.dtype
    difference = origin.fingerprint.difference(Fingerprint.of(dit), spec.dtype, own)
    if difference is None:
        return
    exported = "weights it does not name" if origin.source is None else f"the weights of {origin.source}"
    given = "others" if loaded is None else "others of that name" if loaded == origin.source else f"those of {loaded}"
    raise ValueError(
        f"{file} was exported from {exported}, but {given} are loaded ({difference}): load the former, or export the "
        f"latter with {export_command(loaded, spec, onnx)}{then}"
    )


def export_command(source: Source | None, spec: GraphSpec, output: Path) -> str:
    """The command that exports ``source`` with the precision and the parts of ``spec``."""
    words = ["humo-rt", "export", *(() if source is None else source.options), "--precision", spec.precision]
    parts = {"--face-mask": spec.face_mask, "--mask-predictor": spec.mask_predictor, "--plugins": spec.plugins}
    words += [option for option, wanted in parts.items() if wanted]
    return shlex.join([*words, "--output", str(output)])
