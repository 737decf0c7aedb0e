"""Settings of a training run as frozen dataclasses, and ``--set key=value`` on top of them.

Knows names, defaults and what may not be combined. Builds nothing.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


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

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"optimiser.lr is {self.lr}: use a positive number")
        require_at_least(0, **{f"optimiser.{name}": getattr(self, name) for name in ("warmup_steps", "weight_decay")})
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"optimiser.clip_norm is {self.clip_norm}: use a positive number, or none")


@dataclass(frozen=True, kw_only=True)
class EMAConfig:
    """Average of the weights; its decay grows as (1 + step) / (``warmup`` + step) until it reaches ``decay``."""

    decay: float = 0.999
    warmup: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= 1:
            raise ValueError(f"ema.decay is {self.decay}: use a number between 0 and 1")
        require_at_least(1, **{"ema.warmup": self.warmup})


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
        names = ("steps", "accumulate", "log_every", "sample_every", "checkpoint_every", "keep_checkpoints")
        require_at_least(1, **{name: getattr(self, name) for name in names})
        if self.optimiser.name == "muon" and self.parallel.strategy == "fsdp":
            raise ValueError("muon works on whole matrices, fsdp shards them: use parallel.strategy=replicate or adamw")
        if self.max_seconds is not None and not 0 < self.max_seconds < math.inf:
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


def override(config: Any, assignments: Mapping[str, str], group: str = "") -> Any:
    """``config`` with the fields at the dotted keys replaced by texts, read as the types that the fields declare.

    All at once: what may not be combined is judged by the outcome. ``ValueError`` names the fields when a key does not
    exist, and the type when a text does not fit. ``group`` goes before the keys in errors.
    """
    names, kinds = [f.name for f in fields(config)], get_type_hints(type(config))
    parts: dict[str, dict[str, str]] = {}
    changed: dict[str, Any] = {}
    for key, text in assignments.items():
        head, _, rest = key.partition(".")
        if head not in names:
            raise ValueError(f"no setting {group}{head} in {type(config).__name__}: choose one of {', '.join(names)}")
        value = getattr(config, head)
        if rest and not is_dataclass(value):
            raise ValueError(f"setting {group}{head} has no parts: write {group}{head}=VALUE")
        if rest:
            parts.setdefault(head, {})[rest] = text
        elif is_dataclass(value):
            inner = ", ".join(f.name for f in fields(value))
            raise ValueError(f"setting {group}{head} is a group: set one of {inner} in it")
        else:
            changed[head] = _read(group + key, text, kinds[head])
    changed |= {head: override(getattr(config, head), given, f"{group}{head}.") for head, given in parts.items()}
    return replace(config, **changed)


def _read(key: str, text: str, kind: Any) -> Any:
    """``text`` as a value of the annotation ``kind``: one of its choices, a text, a number, a tuple or None."""
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError(f"{key}={text!r} is unknown: choose one of {', '.join(get_args(kind))}")
        return text
    allowed = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if NoneType in allowed and text.lower() == "none":
        return None
    if str in allowed:
        return text
    try:
        return _fitted(ast.literal_eval({"true": "True", "false": "False"}.get(text.lower(), text)), kind)
    except (ValueError, SyntaxError, TypeError):
        names = {one: one.__name__ if type(one) is type else str(one) for one in allowed} | {NoneType: "none"}
        wanted = " or ".join(names[one] for one in allowed)
        raise ValueError(f"{key}={text!r} does not fit: give a value of the type {wanted}") from None


def _fitted(value: Any, kind: Any) -> Any:
    """``value`` as the annotation ``kind`` has it, a whole number as a float where one is meant; else ``TypeError``."""
    if get_origin(kind) in (Union, UnionType):
        for one in get_args(kind):
            with suppress(TypeError):
                return _fitted(value, one)
    elif get_origin(kind) is tuple and type(value) is tuple:
        items = get_args(kind)
        items = items[:1] * len(value) if items[-1] is Ellipsis else items
        if len(items) == len(value):
            return tuple(_fitted(item, one) for item, one in zip(value, items, strict=True))
    elif kind is float and type(value) is int:
        return float(value)
    elif type(value) is kind:
        return value
    raise TypeError(f"{value!r} is no {kind}")


def require_at_least(low: float, **numbers: float | None) -> None:
    """``ValueError`` for one that is smaller; None is as good as none given."""
    for name, number in numbers.items():
        if number is not None and not number >= low:
            raise ValueError(f"{name} is {number}: use at least {low}")
