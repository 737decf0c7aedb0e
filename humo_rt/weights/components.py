"""Everything a pipeline consists of, loaded: the one entry point of ``humo_rt.weights``.

Chooses the files, checks the memory, builds on the meta device and fills from disk. Runs no forward pass.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from humo_rt.conditions.text import load_tokenizer
from humo_rt.config import PRESETS, ModelConfig
from humo_rt.runtime.placement import chosen_device
from humo_rt.weights.layout import ModelFiles
from humo_rt.weights.load import load_into
from humo_rt.weights.memory import available_memory, check_memory
from humo_rt.weights.modules import NETWORKS, build_on_meta, float32_rule, parameter_bytes, part_dtype
from humo_rt.weights.names import renames
from humo_rt.weights.random_init import byte_tokenizer, fill_random
from humo_rt.weights.readers import read_checkpoint, read_tensor
from humo_rt.weights.resolve import select

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from humo_rt.model.dit import HumoDiT
    from humo_rt.model.vae import VideoVAE

logger = logging.getLogger(__name__)

ENCODERS = ("text_encoder", "audio_encoder")


@dataclass(frozen=True, kw_only=True)
class Components:
    """A loaded model.

    ``zero_vae``: published grey latents, each (16, T, h, w); empty when none were shipped. ``weights``: where the
    weights are, as the user named it, or ``"random"``; None for the preset's own.
    """

    config: ModelConfig
    dit: HumoDiT
    vae: VideoVAE
    text_encoder: nn.Module
    tokenizer: PreTrainedTokenizerBase
    audio_encoder: nn.Module
    zero_vae: tuple[Tensor, ...] = ()
    weights: str | None = None


def load_components(
    path_or_preset: str | Path,
    *,
    weights: str | Path | None = None,
    device: torch.device | str,
    dtype: torch.dtype,
    encoder_device: torch.device | str | None = None,
    exported_dit: bool = False,
    seed: int = 0,
) -> Components:
    """Load a model for inference: evaluation mode, no gradients.

    Args:
        path_or_preset: preset name, or a folder, DiT file or Hugging Face repository.
        weights: for a preset, where its weights are; ``"random"`` for random ones drawn from ``seed``.
        dtype: precision of the matrix products; parts that need more keep float32 (see ``modules.part_dtype``).
        encoder_device: where the text and the audio encoder are kept; default: ``device``.
        exported_dit: draw random weights of the DiT on the CPU, as exports do: each kind of device draws others.

    Raises ``ValueError`` for a name, folder or file that cannot be right, ``RuntimeError`` for too little memory, a
    device that is not there, or a download that fails.
    """
    device = chosen_device(device)
    selection = select(path_or_preset, weights)
    config = selection.config
    modules = build_on_meta(config)
    kept = device if encoder_device is None else chosen_device(encoder_device)
    devices = {part: kept if part in ENCODERS else device for part in NETWORKS}
    _require_room(parameter_bytes(modules, dtype), devices, device, f"{config.name} in {_short(dtype)}")

    if selection.files is None:
        for part in NETWORKS:
            drawn = "cpu" if exported_dit and part == "dit" else devices[part]
            fill_random(modules[part], part=part, seed=seed, dtype=part_dtype(part, dtype), device=drawn)
            modules[part].to(devices[part])
        tokenizer, zero_vae = byte_tokenizer(), ()
    else:
        _fill_from_files(modules, selection.files, config, dtype=dtype, devices=devices)
        tokenizer = load_tokenizer(selection.files.tokenizer)
        zero_vae = tuple(read_tensor(path) for path in selection.files.zero_vae)
    for module in modules.values():
        module.eval().requires_grad_(False)
    named = path_or_preset if weights is None and str(path_or_preset) not in PRESETS else weights
    source = None if named is None else str(named)
    return Components(config=config, tokenizer=tokenizer, zero_vae=zero_vae, weights=source, **modules)


def _fill_from_files(
    modules: dict[str, nn.Module],
    files: ModelFiles,
    config: ModelConfig,
    *,
    dtype: torch.dtype,
    devices: dict[str, torch.device],
) -> None:
    rules = renames(config.vae.num_res_blocks)
    for part in NETWORKS:
        path = getattr(files, part)
        target = modules[part].autoencoder if part == "vae" else modules[part]
        report = load_into(
            target,
            read_checkpoint(files.dit_files if part == "dit" else path),
            dtype=part_dtype(part, dtype),
            device=devices[part],
            rename=rules[part],
            optional=(),
            keep_float32=float32_rule(target),
            source=str(path),
        )
        logger.info("%s: %d tensors from %s, %d not needed", part, report.loaded, path, len(report.unused))


def _require_room(sizes: dict[str, int], devices: dict[str, torch.device], device: torch.device, what: str) -> None:
    """RuntimeError unless all parts fit where they are kept, and on ``device`` the largest that visits it, too."""
    away = [part for part in devices if devices[part] != device]
    largest = max((sizes[part] for part in away), default=0)
    resident = sum(sizes[part] for part in devices if part not in away)
    check_memory(resident + largest, available_memory(device), f"loading {what} on {device}")
    for other in {devices[part] for part in away}:
        needed = sum(sizes[part] for part in away if devices[part] == other)
        check_memory(needed, available_memory(other), f"keeping the encoders of {what} on {other}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
