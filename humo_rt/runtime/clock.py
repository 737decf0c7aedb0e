"""Wall-clock time of each stage of a generation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from humo_rt.runtime.trace import named_range


class StageClock:
    """Seconds spent per named stage; a stage entered several times adds up.

    A GPU may still be at work on a stage when the host has left it; with ``synchronised`` the host waits before and
    after each one, so that its time is its own.
    """

    def __init__(self, device: torch.device, *, synchronised: bool = False) -> None:
        self._device = device
        self._waits = synchronised and device.type == "cuda"
        self._begin = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = self._now()
        try:
            with named_range(name):
                yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - begin

    def timings(self) -> dict[str, float]:
        """Every stage, then ``total``: seconds since the clock was made, time between stages included."""
        return {**self.seconds, "total": self._now() - self._begin}

    def _now(self) -> float:
        if self._waits:
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
