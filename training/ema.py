"""The exponential moving average of the weights: float32 shadows, one fused pass per step.

Knows parameters and their names. With sharded parameters every process averages its own shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.config import EMAConfig


def local(tensor: Tensor) -> Tensor:
    """This process's part of a (possibly sharded) tensor, sharing its memory."""
    tensor = tensor.detach()
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


class EMA:
    """Averages the trainable parameters of ``model``; frozen ones are their own average."""

    def __init__(self, model: nn.Module, config: EMAConfig) -> None:
        self.config = config
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self._parameters = [p for _, p in named]
        self.shadows = [p.detach().float().clone() for p in self._parameters]

    def decay_at(self, step: int) -> float:
        """Decay of the update that follows optimiser step ``step`` (counted from 0)."""
        return min(self.config.decay, (1 + step) / (self.config.warmup + step))

    @torch.no_grad()
    def update(self, step: int) -> None:
        shadows = [local(s) for s in self.shadows]
        torch._foreach_lerp_(shadows, [local(p).float() for p in self._parameters], 1.0 - self.decay_at(step))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model holds the averaged weights; afterwards its own again, to the bit."""
        with torch.no_grad():
            kept = [local(p).clone() for p in self._parameters]
            self._write(self.shadows)
            try:
                yield
            finally:
                self._write(kept)

    @torch.no_grad()
    def reset(self) -> None:
        """Start over from the model's present weights."""
        for shadow, parameter in zip(self.shadows, self._parameters, strict=True):
            local(shadow).copy_(local(parameter))

    def state_dict(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.shadows, strict=True))

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        torch._foreach_copy_([local(p) for p in self._parameters], [local(v) for v in values])
