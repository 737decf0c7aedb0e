"""Classifier-free guidance as a table: which branches run at timestep t, and with which weights.

Every published formula is a weighted sum of the velocities of a few branches. A branch is named by the conditions it
sees: T the prompt (otherwise the negative prompt), I the reference images, A the audio; "0" sees none of them.
Knows nothing of tensors or models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from humo_rt.config import ModelConfig

CONDITIONS = "TIA"
NO_CONDITION = "0"
MODES = ("T", "TI", "TA", "TIA")
MAX_TIMESTEP = 1000.0


def branch_name(conditions: Iterable[str]) -> str:
    """Canonical name of the branch that sees ``conditions``: letters in the order T, I, A, or "0"."""
    seen = set(conditions) - {NO_CONDITION}
    if not seen <= set(CONDITIONS):
        raise ValueError(f"branch {''.join(conditions)!r} is not made of T, I and A: name one like 'TIA', 'TA' or '0'")
    return "".join(letter for letter in CONDITIONS if letter in seen) or NO_CONDITION


@dataclass(frozen=True)
class GuidanceRow:
    """Weights of the branches while ``t > above``. ``above=None`` holds for every remaining timestep."""

    weights: Mapping[str, float]
    above: float | None = None

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


def _humo_17b(mode: str, text: float, audio: float, image: float | None, switch: float | None) -> GuidanceTable:
    """Audio and text terms; above the switch the reference images stay in every branch."""
    if "I" not in mode:
        table = GuidanceTable((GuidanceRow(_chain((audio, "TA", "T"), (text, "T", "0"), base="0")),))
        return table.restricted_to(mode)
    early = GuidanceRow(_chain((audio, "TIA", "TI"), (text, "TI", "I"), base="I"), above=switch)
    late = GuidanceRow(_chain((audio, "TIA", "TI"), (text - 2.0, "TI", "0"), base="0"))
    return GuidanceTable((early, late)).restricted_to(mode)


def _humo_1_7b(mode: str, text: float, audio: float, image: float | None, switch: float | None) -> GuidanceTable:
    """Image, audio and text terms, each against the branch without it."""
    steps = ((image, "TIA", "TA"), (audio, "TA", "T"), (text, "T", "0"))
    return GuidanceTable((GuidanceRow(_chain(*steps, base="0")),)).restricted_to(mode)


def _paper(mode: str, text: float, audio: float, image: float | None, switch: float | None) -> GuidanceTable:
    """Equation 4 of the paper, one row. Its time-adaptive weights are not published: give a table for those."""
    steps = ((audio, "TIA", "TI"), (image, "TI", "T"), (text, "T", "0"))
    return GuidanceTable((GuidanceRow(_chain(*steps, base="0")),)).restricted_to(mode)


def _none(mode: str, text: float, audio: float, image: float | None, switch: float | None) -> GuidanceTable:
    """One branch with everything that is given: for distilled weights."""
    return GuidanceTable((GuidanceRow({branch_name(mode): 1.0}),))


@dataclass(frozen=True)
class GuidancePreset:
    build: Callable[[str, float, float, float | None, float | None], GuidanceTable]
    has_image_scale: bool
    has_switch: bool


GUIDANCE: dict[str, GuidancePreset] = {
    "humo-17b": GuidancePreset(_humo_17b, has_image_scale=False, has_switch=True),
    "humo-1.7b": GuidancePreset(_humo_1_7b, has_image_scale=True, has_switch=False),
    "paper": GuidancePreset(_paper, has_image_scale=True, has_switch=False),
    "none": GuidancePreset(_none, has_image_scale=False, has_switch=False),
}
DEFAULT_IMAGE_SCALE = 4.0
DEFAULT_SWITCH = 980.0


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
    """The table for one generation; what is None comes from ``config``.

    ``guidance`` is a name in ``GUIDANCE`` or a table of your own, which the scales do not touch.
    ``ValueError`` for an unknown name, or a scale or switch the chosen guidance has no use for.
    """
    given = {
        "guidance_scale": guidance_scale,
        "audio_guidance_scale": audio_guidance_scale,
        "image_guidance_scale": image_guidance_scale,
        "guidance_switch_timestep": guidance_switch_timestep,
    }
    unused = [name for name, value in given.items() if value is not None]
    if isinstance(guidance, GuidanceTable):
        if unused:
            raise ValueError(f"{', '.join(unused)} cannot change a guidance table: put the numbers into its rows")
        return guidance.restricted_to(mode)
    name = config.guidance if guidance is None else guidance
    if name not in GUIDANCE:
        raise ValueError(f"unknown guidance {name!r}: choose one of {', '.join(GUIDANCE)} or pass a GuidanceTable")
    preset = GUIDANCE[name]
    if image_guidance_scale is not None and not preset.has_image_scale:
        raise ValueError(
            f"guidance {name!r} has no image term: drop image_guidance_scale or choose 'humo-1.7b' or 'paper'"
        )
    if guidance_switch_timestep is not None and not preset.has_switch:
        raise ValueError(f"guidance {name!r} does not switch: drop guidance_switch_timestep or choose 'humo-17b'")
    if guidance_switch_timestep is not None:
        _check_timestep(guidance_switch_timestep)
    return preset.build(
        mode,
        _first(guidance_scale, config.guidance_scale),
        _first(audio_guidance_scale, config.audio_guidance_scale),
        _first(image_guidance_scale, config.image_guidance_scale, DEFAULT_IMAGE_SCALE),
        _first(guidance_switch_timestep, config.guidance_switch_timestep, DEFAULT_SWITCH),
    )


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)
