"""Classifier-free guidance as a table: which branches run at timestep t, and with which weights.

Every published formula is a weighted sum of the velocities of a few branches. A branch is named by the conditions it
sees: T the prompt (otherwise the negative prompt), I the reference images, A the audio; "0" sees none of them.
Knows nothing of tensors or models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from humo_rt import rules
from humo_rt.config import ModelConfig

CONDITIONS = "TIA"
NO_CONDITION = "0"
MODES = ("T", "TI", "TA", "TIA")
MAX_TIMESTEP = 1000.0


def branch_name(conditions: Iterable[str]) -> str:
    """Canonical name of the branch that sees ``conditions``: letters in the order T, I, A, or "0"."""
    if not isinstance(conditions, str | AbstractSet):
        raise ValueError(f"branch {conditions!r} is no name: write one like 'TIA', 'TA' or '0'")
    seen = set(conditions) - {NO_CONDITION}
    if not seen <= set(CONDITIONS):
        raise ValueError(f"branch {''.join(conditions)!r} is not made of T, I and A: name one like 'TIA', 'TA' or '0'")
    return "".join(letter for letter in CONDITIONS if letter in seen) or NO_CONDITION


def richest_branch(names: Iterable[str]) -> str:
    """The branch of ``names`` that sees most conditions, the first of several."""
    return max(names, key=lambda name: len(name.replace(NO_CONDITION, "")))


@dataclass(frozen=True)
class GuidanceRow:
    """Weights of the branches while ``t > above``. ``above=None`` holds for every remaining timestep."""

    weights: Mapping[str, float]
    above: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.weights, Mapping):
            raise ValueError(f'guidance weights {self.weights!r} are no mapping: write {{"TIA": 2.0, "0": -1.0}}')
        # Numbers of NumPy or torch are no JSON, and settings have to be.
        weights = {name: rules.as_float(f"the weight of branch {name!r}", w) for name, w in self.weights.items()}
        object.__setattr__(self, "weights", weights)
        if self.above is not None:
            object.__setattr__(self, "above", rules.as_float("a bound of guidance rows", self.above))

    def restricted_to(self, mode: str) -> GuidanceRow:
        """The same row when only the conditions of ``mode`` are given: branches that become equal are added."""
        merged: dict[str, float] = {}
        for name, weight in self.weights.items():
            key = branch_name(set(name) & set(mode))
            merged[key] = merged.get(key, 0.0) + weight
        return GuidanceRow({name: weight for name, weight in merged.items() if weight}, self.above)


@dataclass(frozen=True)
class GuidanceTable:
    """Rows by falling ``above``; the first row whose bound lies strictly below t applies, the last row always does.

    ``GuidanceTable((GuidanceRow({"TIA": 1.0}),))`` is no guidance. ``ValueError`` for rows out of order, unknown
    branch names, non-finite weights, or weights that do not sum to 1 (the result would not be a velocity).
    """

    rows: tuple[GuidanceRow, ...]

    def __post_init__(self) -> None:
        if not self.rows or self.rows[-1].above is not None:
            raise ValueError(
                "a guidance table ends with a row whose `above` is None: it serves all remaining timesteps"
            )
        bounds = [row.above for row in self.rows[:-1]]
        if None in bounds or bounds != sorted(bounds, reverse=True) or len(set(bounds)) < len(bounds):
            raise ValueError(f"guidance rows have the bounds {bounds}: give falling numbers, None only in the last row")
        for bound in bounds:
            _check_timestep(bound)
        for row in self.rows:
            _check_weights(row.weights)

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> GuidanceTable:
        """From what ``to_rows`` gave, also after a way through JSON. ``ValueError`` for anything else."""
        try:
            return cls(tuple(GuidanceRow(dict(row["weights"]), row.get("above")) for row in rows))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f'guidance rows {rows!r} are not of the form [{{"above": 980, "weights": {{"TIA": 1}}}}, ...]'
            ) from error

    def to_rows(self) -> list[dict[str, Any]]:
        """Plain lists, dictionaries and numbers, ready for JSON."""
        return [{"above": row.above, "weights": dict(row.weights)} for row in self.rows]

    def at(self, timestep: float) -> Mapping[str, float]:
        """Branch weights at ``timestep`` (0..1000, 1000 = noise)."""
        return next(row.weights for row in self.rows if row.above is None or timestep > row.above)

    def restricted_to(self, mode: str) -> GuidanceTable:
        """The table when only the conditions of ``mode`` (T, TI, TA or TIA) are given."""
        return GuidanceTable(tuple(row.restricted_to(mode) for row in self.rows))


def _check_timestep(value: float) -> None:
    if not 0 <= value <= MAX_TIMESTEP:
        raise ValueError(f"guidance switch timestep {value} is outside 0..1000: 1000 is noise, the release uses 980")


def _check_weights(weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        if branch_name(name) != name:
            raise ValueError(f"branch {name!r} is not in canonical order: write {branch_name(name)!r}")
        if not math.isfinite(weight):
            raise ValueError(f"the weight of branch {name!r} is {weight}: give a finite number")
    total = math.fsum(weights.values())
    if not weights or abs(total - 1.0) > 1e-6:
        raise ValueError(
            f"guidance weights {dict(weights)} sum to {total:g}, not to 1: add the missing share to one branch"
        )


def _chain(*steps: tuple[float, str, str], base: str) -> dict[str, float]:
    """Weights of ``sum scale * (f(more) - f(less)) + f(base)``."""
    weights: dict[str, float] = {base: 1.0}
    for scale, more, less in steps:
        weights[more] = weights.get(more, 0.0) + scale
        weights[less] = weights.get(less, 0.0) - scale
    return {name: weight for name, weight in weights.items() if weight}


def _humo_17b(
    mode: str, *, guidance_scale: float, audio_guidance_scale: float, guidance_switch_timestep: float
) -> GuidanceTable:
    """Audio and text terms; above the switch the reference images stay in every branch."""
    audio, text = audio_guidance_scale, guidance_scale
    if "I" not in mode:
        table = GuidanceTable((GuidanceRow(_chain((audio, "TA", "T"), (text, "T", "0"), base="0")),))
        return table.restricted_to(mode)
    early = GuidanceRow(_chain((audio, "TIA", "TI"), (text, "TI", "I"), base="I"), above=guidance_switch_timestep)
    late = GuidanceRow(_chain((audio, "TIA", "TI"), (text - 2.0, "TI", "0"), base="0"))
    return GuidanceTable((early, late)).restricted_to(mode)


def _humo_1_7b(
    mode: str, *, guidance_scale: float, audio_guidance_scale: float, image_guidance_scale: float
) -> GuidanceTable:
    """Image, audio and text terms, each against the branch without it."""
    steps = ((image_guidance_scale, "TIA", "TA"), (audio_guidance_scale, "TA", "T"), (guidance_scale, "T", "0"))
    return GuidanceTable((GuidanceRow(_chain(*steps, base="0")),)).restricted_to(mode)


def _paper(
    mode: str, *, guidance_scale: float, audio_guidance_scale: float, image_guidance_scale: float
) -> GuidanceTable:
    """Equation 4 of the paper, one row. Its time-adaptive weights are not published: give a table for those."""
    steps = ((audio_guidance_scale, "TIA", "TI"), (image_guidance_scale, "TI", "T"), (guidance_scale, "T", "0"))
    return GuidanceTable((GuidanceRow(_chain(*steps, base="0")),)).restricted_to(mode)


def _none(mode: str) -> GuidanceTable:
    """One branch with everything that is given: for distilled weights."""
    return GuidanceTable((GuidanceRow({branch_name(mode): 1.0}),))


@dataclass(frozen=True)
class GuidancePreset:
    """A formula and the names of the numbers in it."""

    build: Callable[..., GuidanceTable]
    numbers: tuple[str, ...]


_SCALES = ("guidance_scale", "audio_guidance_scale")
NUMBERS = (*_SCALES, "image_guidance_scale", "guidance_switch_timestep")
GUIDANCE: dict[str, GuidancePreset] = {
    "humo-17b": GuidancePreset(_humo_17b, (*_SCALES, "guidance_switch_timestep")),
    "humo-1.7b": GuidancePreset(_humo_1_7b, (*_SCALES, "image_guidance_scale")),
    "paper": GuidancePreset(_paper, (*_SCALES, "image_guidance_scale")),
    "none": GuidancePreset(_none, ()),
}
# For a formula that is not the model's own: the model's configuration has no such number.
_FALLBACK = {"image_guidance_scale": 4.0, "guidance_switch_timestep": 980.0}


def guidance_numbers(config: ModelConfig, guidance: str | None, given: Mapping[str, float | None]) -> dict[str, float]:
    """The numbers in formula ``guidance`` (default: the model's own): as given, else from ``config``.

    ``given``: by name, None where nothing is given. ``ValueError`` for an unknown formula, or a number it does not use.
    """
    name = config.guidance if guidance is None else guidance
    if name not in GUIDANCE:
        raise ValueError(f"unknown guidance {name!r}: choose one of {', '.join(GUIDANCE)} or pass a GuidanceTable")
    numbers = GUIDANCE[name].numbers
    for number, value in given.items():
        if value is not None and number not in numbers:
            others = [other for other, preset in GUIDANCE.items() if number in preset.numbers]
            raise ValueError(f"guidance {name!r} does not use {number}: drop it, or choose {' or '.join(others)}")
    candidates = ((number, (given.get(number), getattr(config, number), _FALLBACK.get(number))) for number in numbers)
    return {number: next(value for value in values if value is not None) for number, values in candidates}


def guidance_table(
    config: ModelConfig,
    mode: str,
    guidance: str | GuidanceTable | None = None,
    *,
    guidance_scale: float | None = None,
    audio_guidance_scale: float | None = None,
    image_guidance_scale: float | None = None,
    guidance_switch_timestep: float | None = None,
) -> GuidanceTable:
    """The table for one generation in ``mode`` (T, TI, TA or TIA); numbers that are None come from ``config``.

    ``guidance`` is a name in ``GUIDANCE`` (default: the model's own) or a table of your own. ``ValueError`` for an
    unknown name, or a number that the chosen guidance does not use.
    """
    values = (guidance_scale, audio_guidance_scale, image_guidance_scale, guidance_switch_timestep)
    given = dict(zip(NUMBERS, values, strict=True))
    if isinstance(guidance, GuidanceTable):
        unused = [name for name, value in given.items() if value is not None]
        if unused:
            raise ValueError(f"{', '.join(unused)} cannot change a guidance table: put the numbers into its rows")
        return guidance.restricted_to(mode)
    numbers = guidance_numbers(config, guidance, given)
    if "guidance_switch_timestep" in numbers:
        _check_timestep(numbers["guidance_switch_timestep"])
    return GUIDANCE[config.guidance if guidance is None else guidance].build(mode, **numbers)
