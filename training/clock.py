"""How much of a run's time is spent, and whether it was asked to stop: agreed on by all processes.

Knows time and signals. Processes agree only when asked to (``agree``), because agreeing makes the host wait.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from training.parallel import World

logger = logging.getLogger(__name__)


class Clock:
    """Seconds of training, those before a resume included. ``limit`` is the run's budget in seconds, or None."""

    def __init__(self, limit: float | None, world: World) -> None:
        self.limit = limit
        self.share = 0.0
        self.stopping = False
        self._world = world
        self._before = 0.0
        self._started = time.monotonic()
        self._stop_wanted = False

    def start(self, seconds_before: float) -> None:
        """Count from now, on top of what earlier parts of the run took."""
        self._before, self._started = seconds_before, time.monotonic()

    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def agree(self) -> None:
        """Settle ``share`` (of the budget, 0 without one) and ``stopping`` among all processes."""
        own = [self.seconds() / self.limit if self.limit else 0.0, float(self._stop_wanted)]
        if self._world.size > 1:
            values = torch.tensor(own, dtype=torch.float64, device=self._world.device)
            own = self._world.reduce(values, dist.ReduceOp.MAX).tolist()
        self.share, self.stopping = own[0], bool(own[1])

    @contextmanager
    def heeding_signals(self) -> Iterator[None]:
        """Inside, SIGINT and SIGTERM ask for a stop at the next agreement; a second one takes its usual effect."""

        def ask(number: int, frame: Any) -> None:
            logger.warning("signal %d: stopping with a checkpoint (again to stop at once)", number)
            self._stop_wanted = True
            signal.signal(number, previous[number])

        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in previous:
            signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
