"""Which samples of stage 2 teach audio-visual sync, and which rehearse the subject.

The paper gives the two ends, 20 % and 50 %, and "gradually"; the straight line between them is this project's reading.
Knows numbers only: no data, no model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training.task import Moment


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Share of sync samples, from ``start`` at progress 0 to ``end`` at progress 1."""

    start: float = 0.2
    end: float = 0.5
    shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"curriculum {name} is {getattr(self, name)}: a share lies between 0 and 1")

    def share(self, progress: float) -> float:
        """Share of sync samples at ``progress`` in 0..1 of the stage; beyond the ends it stays at the ends."""
        x = min(max(progress, 0.0), 1.0)
        if self.shape == "cosine":
            x = 0.5 - 0.5 * math.cos(math.pi * x)
        return self.start + (self.end - self.start) * x

    def is_sync(self, moment: Moment, count: int) -> Tensor:
        """(count,) bool on the CPU: which samples of this micro-batch carry audio. Pure in (seed, index, progress)."""
        draws_B = torch.rand(count, generator=moment.generator("cpu", "curriculum"))
        return draws_B < self.share(moment.progress)
