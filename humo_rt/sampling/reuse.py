"""Guidance whose branches are not all computed at every step. Lossy, off by default.

Guided velocity is the velocity of the branch that sees most, the anchor, plus weighted differences of the others from
it. The differences move slowly from step to step, and each condition's at its own pace, so each branch may be computed
on a schedule of its own and stand for its difference until then. The anchor runs at every step.

Knows which branch is due and how differences are kept; what a branch computes is ``branches``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from humo_rt import rules
from humo_rt.sampling.branches import GuidedModel
from humo_rt.sampling.guidance import MAX_TIMESTEP, GuidanceTable, branch_name, richest_branch


@dataclass(frozen=True, kw_only=True)
class GuidanceReuse:
    """How long a branch's difference from the anchor is used.

    Args:
        every: compute a branch at every n-th step, one number for all or one for each named branch; a branch not named
            is computed at every step, and so is the anchor, whatever is said of it.
        below: reuse at timesteps up to this one only (0..1000, 1000 is noise); above it every branch is computed.

    ``ValueError`` for anything that is not a whole number of steps >= 1, a branch or a timestep.
    """

    every: int | Mapping[str, int] = field(default_factory=dict)
    below: float = MAX_TIMESTEP

    def __post_init__(self) -> None:
        if isinstance(self.every, Mapping):
            periods = {name: _period(period, f" of branch {name!r}") for name, period in self.every.items()}
            for name in periods:
                if branch_name(name) != name:
                    raise ValueError(f"branch {name!r} is not in canonical order: write {branch_name(name)!r}")
        else:
            periods = _period(self.every)
        object.__setattr__(self, "every", periods)
        object.__setattr__(self, "below", rules.real("guidance_reuse below", self.below, 0.0, MAX_TIMESTEP))

    @classmethod
    def parse(cls, value: int | str | Mapping[str, Any] | GuidanceReuse) -> GuidanceReuse:
        """From one number for all branches, a mapping of branches to numbers, or what ``to_json`` gave.

        Also from text: ``2`` or ``TA=2,0=4,below=900``.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls._from_text(value)
        if isinstance(value, Mapping) and not {"every", "below"}.isdisjoint(value):
            unknown = [key for key in value if key not in ("every", "below")]
            if unknown or "every" not in value:
                wrong = f"has the unknown key {unknown[0]!r}" if unknown else "lacks 'every'"
                raise ValueError(f'guidance_reuse {dict(value)!r} {wrong}: write {{"every": 2, "below": 900}}')
            return cls(**value)
        return cls(every=value)

    @classmethod
    def _from_text(cls, text: str) -> GuidanceReuse:
        pairs = [tuple(part.strip() for part in pair.split("=")) for pair in text.split(",")]
        names, below = [pair[0] for pair in pairs], MAX_TIMESTEP
        try:
            if pairs[0][1:]:
                given = dict(pairs)
                below = float(given.pop("below", below))
                every = {name: int(period) for name, period in given.items()}
            else:
                every = int(text)
        except ValueError:
            every = {}
        if every == {}:
            raise ValueError(f"guidance_reuse {text!r} is neither like 2 nor like TA=2,0=4,below=900")
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise ValueError(f"guidance_reuse {text!r} names {repeated} twice: name it once")
        return cls(every=every, below=below)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and dictionaries, which ``parse`` takes back."""
        return {"every": dict(self.every) if isinstance(self.every, Mapping) else self.every, "below": self.below}

    def checked(self, table: GuidanceTable) -> GuidanceReuse:
        """Itself; ``ValueError`` when it names a branch that ``table`` does not have."""
        known = {name for row in table.rows for name in row.weights}
        unknown = sorted(set(self.every) - known) if isinstance(self.every, Mapping) else []
        if unknown:
            raise ValueError(f"branch {unknown[0]!r} is not part of this guidance: it has {', '.join(sorted(known))}")
        return self

    def is_due(self, branch: str, *, age: int, timestep: float) -> bool:
        """Whether a branch last computed ``age`` steps ago is computed at ``timestep``."""
        period = self.every.get(branch, 1) if isinstance(self.every, Mapping) else self.every
        return timestep > self.below or age >= period


def _period(value: Any, of: str = "") -> int:
    return rules.whole(f"guidance_reuse{of}", value, 1)


class ReuseSchedule:
    """Which branches are computed, step after step. Serves one run through the timesteps."""

    def __init__(self, reuse: GuidanceReuse) -> None:
        self.reuse = reuse
        self._step = 0
        self._anchor: str | None = None
        self._computed_at: dict[str, int] = {}

    def next(self, branches: Iterable[str], timestep: float) -> tuple[str, ...]:
        """Of the branches that guide the next step those to compute, the anchor first."""
        branches = tuple(branches)
        anchor = richest_branch(branches)
        if anchor != self._anchor:  # differences from another branch say nothing about this one
            self._anchor = anchor
            self._computed_at.clear()
        due = [name for name in branches if name != anchor and self._is_due(name, timestep)]
        self._computed_at |= dict.fromkeys(due, self._step)
        self._step += 1
        return anchor, *due

    def _is_due(self, name: str, timestep: float) -> bool:
        if name not in self._computed_at:
            return True
        return self.reuse.is_due(name, age=self._step - self._computed_at[name], timestep=timestep)


def computed_branches(
    table: GuidanceTable, timesteps: Sequence[float], reuse: GuidanceReuse | None
) -> list[tuple[str, ...]]:
    """The branches that each step at ``timesteps`` computes."""
    if reuse is None:
        return [tuple(table.at(timestep)) for timestep in timesteps]
    schedule = ReuseSchedule(reuse)
    return [schedule.next(table.at(timestep), timestep) for timestep in timesteps]


class ReusingModel(GuidedModel):
    """A guided model that keeps differences of branches from the anchor. Serves one run through the timesteps."""

    def __init__(self, *args: Any, reuse: GuidanceReuse, **options: Any) -> None:
        super().__init__(*args, **options)
        self._schedule = ReuseSchedule(reuse)
        self._differences: dict[str, Tensor] = {}

    def velocity(self, x_NCTHW: Tensor, timestep: int, weights: Mapping[str, float]) -> Tensor:
        """The weighted sum of the branches' velocities, some of them as they were, float32."""
        names = self._schedule.next(weights, timestep)
        found = dict(zip(names, self.branches(x_NCTHW, timestep, names), strict=True))
        anchor, *due = names
        total = found[anchor].float().clone()
        for name in due:
            self._differences[name] = found[name] - found[anchor]
        for name, weight in weights.items():
            if name != anchor:
                total.add_(self._differences[name], alpha=weight)
        return total
