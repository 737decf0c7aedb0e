"""What micro-batches report, summed on the device until a log step reads it.

Knows named scalars and processes. Reading is the only moment the host waits for the device.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from training.errors import RunError
from training.parallel import World

_NEVER = 2**31 - 1


class Totals:
    """Sums of what each micro-batch reported, on the device, until someone reads them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._first_bad = torch.tensor(_NEVER, device=world.device)

    def add(self, step: int, loss: Tensor, scalars: dict[str, Tensor]) -> None:
        self.require_finite(step, loss)
        for name, value in {"loss": loss, **scalars}.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def require_finite(self, step: int, value: Tensor) -> None:
        """Remember ``step`` for ``check`` unless ``value``, one number, is finite."""
        self._first_bad = torch.where(value.isfinite(), self._first_bad, self._first_bad.clamp_max(step))

    def read(self, step: int) -> dict[str, float]:
        """Means over everything added since the last read, over all processes; ends the run where ``check`` does."""
        self.check(step)
        names = sorted(self._sums)
        if not names:
            return {}
        means = torch.stack([self._sums[name] / self._counts[name] for name in names])
        means = self._world.reduce(means) / self._world.size
        self._sums.clear()
        self._counts.clear()
        return dict(zip(names, means.tolist(), strict=True))

    def check(self, step: int) -> None:
        """``RunError`` if any loss or gradient so far was infinite or not a number."""
        bad = int(self._world.reduce(self._first_bad.clone(), dist.ReduceOp.MIN))
        if bad != _NEVER:
            raise RunError(
                f"the loss or its gradient was not finite at step {bad} (noticed at {step}): the last checkpoint "
                "predates it; resume from it with a lower optimiser.lr or a stricter optimiser.clip_norm"
            )
