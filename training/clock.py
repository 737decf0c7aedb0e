"""How much of a run's time is spent, and whether it was asked to stop: agreed on by all processes.

Knows time and signals. Processes agree every few seconds, at steps that all of them know, because agreeing makes the
host wait; whoever stops them may not wait for long (torchrun kills them after 30 s). One that is alone always agrees.
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

_SECONDS_BETWEEN = 5.0


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
        self._agreed_step, self._next_step, self._agreed_at = 0, 0, self._started

    def start(self, seconds_before: float, step: int) -> None:
        """Count from now, at ``step``, on top of what earlier parts of the run took."""
        self._before, self._started = seconds_before, time.monotonic()
        self._agreed_step = self._next_step = step
        self._agreed_at = self._started
        self.agree(step)

    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def agree(self, step: int) -> None:
        """Settle ``share`` (of the budget, 0 without one) and ``stopping`` among all processes, where it is time.

        Called after every step, by all processes.
        """
        if step < self._next_step:
            return
        if self._world.size > 1 and self._world.device.type == "cuda":
            torch.cuda.synchronize(self._world.device)  # agreeing waits anyway, and launches alone take no time
        now = time.monotonic()
        pace = (now - self._agreed_at) / max(1, step - self._agreed_step)
        own = [self.seconds() / self.limit if self.limit else 0.0, float(self._stop_wanted), pace]
        steps = 1
        if self._world.size > 1:
            values = torch.tensor(own, dtype=torch.float64, device=self._world.device)
            own = self._world.reduce(values, dist.ReduceOp.MAX).tolist()
            # At most doubled: the first steps say little of those to come.
            steps = max(1, min(int(_SECONDS_BETWEEN / max(own[2], 1e-6)), 2 * (step - self._agreed_step)))
        self.share, self.stopping = own[0], bool(own[1])
        self._agreed_step, self._next_step, self._agreed_at = step, step + steps, now

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
