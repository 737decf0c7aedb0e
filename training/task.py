"""What the trainer asks of anything that can be trained.

Knows the protocol only: no model, no data, no optimiser. A task owns its network, its data and its loss; the trainer
(``training.trainer``) owns steps, gradients, averages, checkpoints and logs.

Randomness is a pure function of a ``Moment``. A task keeps no counters and no iterators, so a resumed run needs no data
state, and two processes with one micro-batch each see exactly what one process sees in two accumulated micro-batches.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One micro-batch of a run.

    ``step`` counts optimiser steps from 0. ``index`` numbers every micro-batch of the run, over steps, gradient
    accumulation and ranks: no two micro-batches share it, and it does not depend on how many processes share the work.
    ``progress`` runs from 0 at the start of the run to 1 at its end.
    """

    seed: int
    step: int
    index: int
    progress: float = 0.0

    def generator(self, device: torch.device | str, stream: str) -> torch.Generator:
        """A fresh generator on ``device`` seeded by (seed, index, stream); different streams are independent."""
        return torch.Generator(device=device).manual_seed(derive_seed(self.seed, self.index, stream))


def derive_seed(*parts: int | str) -> int:
    """Mix integers and names into one 63-bit seed; the same on every machine and Python."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@runtime_checkable
class Task(Protocol):
    """Something to train: ``prepare`` and ``build`` once, then ``batch`` and ``loss`` for every micro-batch."""

    def build(self, device: torch.device) -> nn.Module:
        """Return the module whose parameters are trained (some may stay frozen), with its initial weights, float32."""

    def trainable(self, name: str) -> bool:
        """Whether the parameter called ``name`` in ``build()``'s module receives gradients."""

    def prepare(self, device: torch.device, rank: int, world_size: int) -> None:
        """Load frozen networks, render data, fill caches. May take minutes; logs what it does."""

    def batch(self, moment: Moment) -> Any:
        """One micro-batch on the device: a pure function of ``moment``."""

    def loss(self, model: nn.Module, batch: Any, moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss (a mean over the micro-batch) and detached scalars to log; all randomness from ``moment``.

        Runs under the trainer's autocast. Returns tensors and never reads their values: a read would stall the device.
        """

    def export(self, state_dict: dict[str, Tensor], path: Path) -> None:
        """Write the file that ships, from the averaged float32 weights on the CPU."""


@runtime_checkable
class Sampling(Protocol):
    """Optional part of a task: pictures of the progress."""

    def samples(self, model: nn.Module, step: int) -> dict[str, Tensor] | None:
        """Videos for the log, name -> uint8 (frames, 3, height, width); None when there is nothing to show."""


@runtime_checkable
class Adopting(Protocol):
    """Optional part of a task: starting from the weights of an earlier stage or of another model."""

    def adopt(self, state_dict: dict[str, Tensor], expected: dict[str, torch.Size]) -> dict[str, Tensor]:
        """Return a complete state dict in the shapes of ``expected``; modules the weights lack get initial values.

        Also of tensors on the meta device, whose names and shapes are all there is to look at.

        ``ValueError`` lists what fits nowhere and what may not be missing.
        """
