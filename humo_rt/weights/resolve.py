"""From what the user named (a preset, a folder, a file, a repository) to a configuration and the files to load.

Decides only; opens a checkpoint no further than its list of names and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from humo_rt.config import PRESETS, DiTConfig, ModelConfig, preset
from humo_rt.weights import hub
from humo_rt.weights.config_file import FILE_NAME, read_config
from humo_rt.weights.layout import ModelFiles, find_files, models_in
from humo_rt.weights.names import dit_name, refuse_lora
from humo_rt.weights.readers import StoredTensor, read_checkpoint

RANDOM = "random"
NANO_ASSETS = Path(__file__).parent.parent / "assets" / "nano"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What to build and from which files; ``files`` is None for random weights."""

    config: ModelConfig
    files: ModelFiles | None


def select(path_or_preset: str | Path, weights: str | Path | None = None) -> Selection:
    """Decide what ``Pipeline.from_pretrained(path_or_preset, weights=weights)`` means.

    ``ValueError`` for an unknown preset, a path that does not exist or holds no model or more than one, and files that
    belong to another model than the preset; ``RuntimeError`` when something must be downloaded and cannot be.
    """
    name = str(path_or_preset)
    if weights == RANDOM:
        return Selection(config=preset(name), files=None)
    if name not in PRESETS:
        if weights is not None:
            raise ValueError(f"unknown preset {name!r}: with weights=, choose one of {', '.join(PRESETS)}")
        return _from_place(_local(name))
    whole_repository = str(weights) == hub.HUMO_REPOSITORY and not Path(str(weights)).exists()
    if weights is not None and not (whole_repository and hub.is_published(name)):
        return _checked(preset(name), _local(str(weights)))
    if hub.is_published(name):
        return _checked(preset(name), hub.download(name))
    if not (NANO_ASSETS / "dit.safetensors").is_file():
        raise ValueError(f"preset {name!r} has no weights in this installation: pass weights='random' or a folder")
    return _checked(preset(name), NANO_ASSETS)


def configuration(path_or_preset: str | Path, weights: str | Path | None = None) -> ModelConfig:
    """The configuration alone: a preset's is known without its weights, unless they are at hand. Errors as ``select``.

    Downloads no preset's weights.
    """
    name = str(path_or_preset)
    at_hand = weights not in (None, RANDOM) and Path(weights).expanduser().exists()
    return PRESETS[name] if name in PRESETS and not at_hand else select(name, weights).config


def shape_of_dit(tensors: Mapping[str, StoredTensor]) -> dict[str, int]:
    """The sizes that tell DiTs apart, read from names and shapes; empty when it is no DiT of this family."""
    named = {target: tensor for name, tensor in tensors.items() if (target := dit_name(name))}
    patch = named.get("patch_embedding.weight")
    if patch is None or "blocks.0.self_attn.q.weight" not in named:
        return {}
    blocks = {int(match[1]) for name in named if (match := re.match(r"blocks\.(\d+)\.", name))}
    return {"dim": patch.shape[0], "in_channels": patch.shape[1], "num_layers": len(blocks)}


def with_mask_predictor(config: DiTConfig, tensors: Mapping[str, StoredTensor]) -> DiTConfig:
    """``config`` with a mask predictor exactly when the checkpoint carries one: published files do not."""
    carried = any((dit_name(name) or "").startswith("mask_predictor.") for name in tensors)
    return replace(config, mask_predictor=carried)


def _local(place: str) -> Path:
    path = Path(place).expanduser()
    if path.exists():
        return path
    if place == hub.HUMO_REPOSITORY:
        raise ValueError(f"{place} holds two models: pass preset humo-1.7b or humo-17b, which downloads from there")
    if hub.looks_like_repository(place):
        return hub.download_repository(place)
    raise ValueError(
        f"{place!r} is neither a preset ({', '.join(PRESETS)}) nor an existing file or folder: check the spelling"
    )


def _from_place(path: Path) -> Selection:
    if path.is_file():
        return _checked(preset(model_of_file(path)), path)
    if (path / FILE_NAME).is_file() and models_in(path) == ["own"]:
        return _checked(read_config(path / FILE_NAME), path)
    models = models_in(path)
    if models == ["own"]:
        return _checked(preset(model_of_file(path / "dit.safetensors")), path)
    if not models:
        raise ValueError(
            f"{path} holds no HuMo weights: expected HuMo-17B/humo.safetensors.index.json, HuMo-1.7B/ema.pth, "
            "a ComfyUI file such as humo_17B_fp16.safetensors, or dit.safetensors; `humo-rt doctor` shows what is there"
        )
    if len(models) > 1:
        raise ValueError(f"{path} holds {' and '.join(models)}: name one as the preset and pass the folder as weights")
    return _checked(preset(models[0]), path)


def model_of_file(path: Path) -> str:
    """The preset whose transformer this file is, by its shapes. ``ValueError`` if it is none of them."""
    tensors = read_checkpoint(path)
    refuse_lora(tensors, str(path))
    shape = shape_of_dit(tensors)
    for name, config in PRESETS.items():
        if shape and shape == _shape(config.dit):
            return name
    raise ValueError(f"{path} is not the transformer of {', '.join(PRESETS)}: {_described(shape)}")


def _checked(config: ModelConfig, place: Path | list[Path]) -> Selection:
    files = find_files(place, config.name)
    tensors = read_checkpoint(files.dit_files)
    shape = shape_of_dit(tensors)
    if shape and shape != _shape(config.dit):
        fitting = [name for name, other in PRESETS.items() if _shape(other.dit) == shape]
        fix = f"use preset {fitting[0]}" if fitting else "give the weights of this preset"
        raise ValueError(f"{files.dit} is not {config.name} but {_described(shape)}: {fix}")
    return Selection(config=replace(config, dit=with_mask_predictor(config.dit, tensors)), files=files)


def _shape(config: DiTConfig) -> dict[str, int]:
    return {"dim": config.dim, "in_channels": config.in_channels, "num_layers": config.num_layers}


def _described(shape: Mapping[str, int]) -> str:
    if not shape:
        return "it has no HuMo tensor names"
    return f"a model of width {shape['dim']}, {shape['num_layers']} blocks and {shape['in_channels']} input channels"
