"""``humo-rt doctor``: what a folder holds and lacks, what memory it needs, what the machine offers.

Opens checkpoints as far as names and shapes and compares them with the model; loads nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from humo_rt import rules
from humo_rt.conditions.text import load_tokenizer
from humo_rt.config import PRESETS, ModelConfig, preset
from humo_rt.machine import Machine, examine_machine
from humo_rt.runtime.placement import chosen_device
from humo_rt.sampling.guidance import guidance_table
from humo_rt.weights.config_file import FILE_NAME, read_config
from humo_rt.weights.layout import PARTS, describe_missing, models_in, survey, zero_vae_files
from humo_rt.weights.load import check_fit
from humo_rt.weights.memory import GIB, activation_bytes, available_memory
from humo_rt.weights.modules import build_on_meta, parameter_bytes
from humo_rt.weights.names import renames
from humo_rt.weights.readers import StoredTensor, read_checkpoint
from humo_rt.weights.resolve import model_of_file, with_mask_predictor


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a model in a folder: its file and size, or the sentence saying what is wrong."""

    name: str
    file: str | None = None
    bytes: int = 0
    dtypes: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes a model takes on ``device`` once loaded, per network, and what a generation adds (an estimate)."""

    device: str
    dtype: str
    size: str
    networks: dict[str, int]
    activations: int
    available: int

    @property
    def total(self) -> int:
        return sum(self.networks.values()) + self.activations

    @property
    def fits(self) -> bool:
        return self.total <= self.available


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model: its parts when a folder was examined, its memory in any case."""

    name: str
    parts: tuple[Part, ...]
    zero_vae: tuple[str, ...]
    memory: Memory


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything found. ``problems``: one sentence each; there being none is what exit code 0 says."""

    path: str | None
    machine: Machine
    models: tuple[Model, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def examine(
    path: Path | None,
    *,
    preset_name: str | None = None,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    device: str | None = None,
) -> Findings:
    """Examine the machine and, if ``path`` is given, the models in that folder (or only ``preset_name``).

    Sizes in pixels and frames are those the memory is estimated for; default: the preset's. ``ValueError`` for an
    unknown preset or device, a size that ``generate`` would refuse, or a path that does not exist.
    """
    size_rules = {"height": rules.size, "width": rules.size, "num_frames": rules.frame_count}
    asked = {"height": height, "width": width, "num_frames": num_frames}
    changes = {name: size_rules[name](name, value) for name, value in asked.items() if value is not None}
    problems: list[str] = []
    target = _target(device, problems)
    machine = examine_machine()
    problems += machine.problems
    configs = _configs(path, preset_name, problems)
    models = tuple(_examine_model(replace(config, **changes), path, target) for config in configs)
    if path is not None or preset_name is not None:
        for model in models:
            problems += _problems_of(model)
    return Findings(path=None if path is None else str(path), machine=machine, models=models, problems=tuple(problems))


def to_json(findings: Findings) -> str:
    """The findings as JSON text; ``ok`` and each model's ``fits`` are included."""
    values = asdict(findings) | {"ok": findings.ok}
    for values_of_model, model in zip(values["models"], findings.models, strict=True):
        values_of_model["memory"] |= {"total": model.memory.total, "fits": model.memory.fits}
    return json.dumps(values, indent=1, ensure_ascii=False)


def _target(device: str | None, problems: list[str]) -> torch.device:
    """Where a model would run; the CPU, said in ``problems``, when the GPU asked for is not there."""
    try:
        return chosen_device(device)
    except RuntimeError as error:
        # The error's own advice is to run this command.
        problems.append(f"{str(error).partition(': ')[0]}: check the driver, or use another --device")
        return torch.device("cpu")


def _configs(path: Path | None, preset_name: str | None, problems: list[str]) -> list[ModelConfig]:
    """The models to examine; says so in ``problems`` when a folder holds none."""
    if preset_name is not None:
        return [preset(preset_name)]
    if path is None:
        return list(PRESETS.values())
    if not path.exists():
        raise ValueError(f"{str(path)!r} does not exist: give a folder with weights, or nothing for the machine alone")
    try:
        if path.is_file():
            return [preset(model_of_file(path))]
        names = models_in(path)
        if names == ["own"]:
            if (path / FILE_NAME).is_file():
                return [read_config(path / FILE_NAME)]
            names = [model_of_file(path / "dit.safetensors")]
    except ValueError as error:
        problems.append(str(error))
        return []
    if not names:
        problems.append(f"{path} holds no HuMo transformer: name a preset with --preset to see what it needs")
    return [preset(name) for name in names]


def _examine_model(config: ModelConfig, path: Path | None, device: torch.device) -> Model:
    found = {} if path is None else survey(path, config.name)
    tensors: dict[str, StoredTensor] = {}
    if "dit" in found:
        try:
            tensors = read_checkpoint(found["dit"])
            config = replace(config, dit=with_mask_predictor(config.dit, tensors))
        except ValueError:
            tensors = {}  # reported with its part below
    modules = build_on_meta(config)
    parts: tuple[Part, ...] = ()
    zero_vae: tuple[str, ...] = ()
    if path is not None:
        parts = tuple(_examine_part(part, found.get(part), config, modules, path) for part in PARTS)
        zero_vae = tuple(str(file) for file in zero_vae_files(path))
    return Model(name=config.name, parts=parts, zero_vae=zero_vae, memory=_memory(config, modules, device))


def _examine_part(part: str, file: Path | None, config: ModelConfig, modules: dict[str, nn.Module], root: Path) -> Part:
    if file is None:
        return Part(name=part, problem=describe_missing(root, config.name, part))
    try:
        if part == "tokenizer":
            load_tokenizer(file)
            return Part(name=part, file=str(file))
        tensors = read_checkpoint(file)
        module = modules["vae"].autoencoder if part == "vae" else modules[part]
        check_fit(module, tensors, rename=renames(config.vae.num_res_blocks)[part], optional=(), source=str(file))
    except ValueError as error:
        return Part(name=part, file=str(file), problem=str(error))
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    return Part(
        name=part, file=str(file), bytes=sum(tensor.nbytes for tensor in tensors.values()), dtypes=tuple(dtypes)
    )


def _memory(config: ModelConfig, modules: dict[str, nn.Module], device: torch.device) -> Memory:
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    table = guidance_table(config, "TIA")
    size = {"height": config.height, "width": config.width, "num_frames": config.num_frames}
    branches = max(len(row.weights) for row in table.rows)
    return Memory(
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        size=f"{config.width}x{config.height}, {config.num_frames} frames",
        networks=parameter_bytes(modules, dtype),
        activations=activation_bytes(config, **size, branches=branches, dtype=dtype, fused=device.type == "cuda"),
        available=available_memory(device),
    )


def _problems_of(model: Model) -> list[str]:
    problems = [part.problem for part in model.parts if part.problem]
    memory = model.memory
    if not memory.fits:
        problems.append(
            f"too little memory: {model.name} at {memory.size} needs about {memory.total / GIB:.1f} GiB on "
            f"{memory.device}, {memory.available / GIB:.1f} GiB is free: choose a smaller size or preset"
        )
    return problems
