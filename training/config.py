"""Settings of a training run as frozen dataclasses, and ``--set key=value`` on top of them.

Knows names, defaults and what may not be combined. Builds nothing.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW with linear warm-up, then ``schedule`` down to ``final_lr`` (a fraction of ``lr``).

    ``name="muon"`` gives matrices to Muon, except those whose names contain one of ``no_muon``.
    """

    lr: float
    name: Literal["adamw", "muon"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.01
    no_decay: tuple[str, ...] = ("modulation",)
    no_muon: tuple[str, ...] = ("embedding", "head.")
    warmup_steps: int = 500
    schedule: Literal["constant", "cosine"] = "constant"
    final_lr: float = 0.1
    clip_norm: float | None = 1.0


@dataclass(frozen=True, kw_only=True)
class EMAConfig:
    """Average of the weights; its decay grows as (1 + step) / (``warmup`` + step) until it reaches ``decay``."""

    decay: float = 0.999
    warmup: int = 10


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How several processes share the work.

    ``replicate`` keeps a whole copy per process and averages gradients; ``fsdp`` shards parameters, gradients and
    optimiser state, block by block of the module list called ``blocks``. ``gather_dtype`` is what FSDP sends parameters
    in: bfloat16 halves the traffic, float32 equals the single-process run.
    """

    strategy: Literal["replicate", "fsdp"] = "replicate"
    blocks: str = "blocks"
    gather_dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The loop. A run ends after ``steps`` optimiser steps or ``max_seconds``, whichever comes first."""

    optimiser: OptimiserConfig
    steps: int
    max_seconds: float | None = None
    seed: int = 0
    accumulate: int = 1
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    compile: Literal["no", "model", "blocks"] = "no"
    checkpoint_activations: bool = False
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    ema: EMAConfig = field(default_factory=EMAConfig)
    log_every: int = 50
    sample_every: int | None = None
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: use at least 1")
        if self.optimiser.name == "muon" and self.parallel.strategy == "fsdp":
            raise ValueError("muon works on whole matrices, fsdp shards them: use parallel.strategy=replicate or adamw")
        if self.max_seconds is not None and self.max_seconds <= 0:
            raise ValueError(f"max_seconds is {self.max_seconds}: use a positive number, or leave it out")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A complete run: what is trained (``task``, a task's configuration), how, and the name of the file that ships.

    ``task_class`` is ``"module:Class"``; the class is called with ``task``.
    ``starts_from`` names the recipe whose result ``--init`` expects, for the reader and for error messages.
    """

    name: str
    about: str
    task_class: str
    task: Any
    trainer: TrainerConfig
    artifact: str
    starts_from: str | None = None


def override(config: Any, key: str, text: str) -> Any:
    """``config`` with the field at the dotted ``key`` replaced by ``text``, read as the type that is there.

    ``ValueError`` names the fields when the key does not exist, and the present value when the text does not fit.
    """
    head, _, rest = key.partition(".")
    names = [f.name for f in fields(config)]
    if head not in names:
        raise ValueError(f"no setting {head!r} in {type(config).__name__}: choose one of {', '.join(names)}")
    value = getattr(config, head)
    if rest:
        if not is_dataclass(value):
            raise ValueError(f"setting {head!r} has no parts: write {head}=VALUE instead of {key}=VALUE")
        return replace(config, **{head: override(value, rest, text)})
    if is_dataclass(value):
        raise ValueError(f"setting {head!r} is a group: set one of {', '.join(f.name for f in fields(value))} in it")
    kind = get_type_hints(type(config))[head]
    return replace(config, **{head: _read(key, text, value, get_args(kind) if get_origin(kind) is Literal else ())})


def _read(key: str, text: str, present: Any, choices: tuple[str, ...]) -> Any:
    if choices and text not in choices:
        raise ValueError(f"{key}={text!r} is unknown: choose one of {', '.join(choices)}")
    if isinstance(present, str):
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False", "none": "None"}.get(text.lower(), text))
    except (ValueError, SyntaxError):
        value = text
    if isinstance(present, float) and type(value) is int:
        value = float(value)
    fits = present is None or value is None or type(value) is type(present)
    if not fits:
        raise ValueError(f"{key}={text!r} does not fit: it is {present!r} now, give a {type(present).__name__}")
    return value
