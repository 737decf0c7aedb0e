"""Guidance and one step of the sampler as a single pass over the latents.

What diffusers' UniPC adds up at each step is read off the scheduler itself: a copy of it runs on unit vectors, and the
numbers that come back are the coefficients. Knows nothing of noise schedules or orders; a step must be linear in the
velocity, the latents, the corrected latents before, and the last two predictions of the clean latents.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from humo_rt.kernels.guided_update import guided_update

_TERMS = 5  # velocity, latents, corrected latents before, clean latents predicted one and two steps before


def is_linear(scheduler: Any) -> bool:
    """Whether ``scheduler`` is a diffusers UniPC scheduler whose steps are such sums: of order 1 or 2, not clipping."""
    unipc = type(scheduler).__name__ == "UniPCMultistepScheduler"
    return unipc and scheduler.config.solver_order <= 2 and not scheduler.config.thresholding


def update_coefficients(scheduler: Any) -> Tensor:
    """Coefficients of every step, float64 (steps, 3, 5), in the order of ``kernels.guided_update``.

    ``scheduler`` is at its first step and is left alone. ``ValueError`` unless ``is_linear`` holds for it.
    """
    if not is_linear(scheduler):
        raise ValueError(
            f"{type(scheduler).__name__} is not UniPC of order 1 or 2 without thresholding: run its own step() instead"
        )
    sigmas = tuple(scheduler.sigmas.tolist())
    key = (repr(sorted(scheduler.config.items())), sigmas)
    if key not in _known:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[key] = _derived_coefficients(scheduler)
    return _known[key]


_known: dict[tuple[str, tuple[float, ...]], Tensor] = {}  # deriving them takes about as long as denoising nano does
_MOST_KNOWN = 64


def _derived_coefficients(scheduler: Any) -> Tensor:
    scheduler = copy.deepcopy(scheduler)
    scheduler.sigmas = scheduler.sigmas.cpu()  # where the unit vectors are
    scheduler.set_begin_index(0)
    velocity, sample, last, *predictions = torch.eye(_TERMS, dtype=torch.float64).unsqueeze(1).unbind(0)
    rows = []
    for t in scheduler.timesteps:
        known = zip(reversed(scheduler.model_outputs), predictions, strict=False)
        scheduler.model_outputs = [None if old is None else unit for old, unit in known][::-1]
        scheduler.last_sample = None if scheduler.last_sample is None else last
        upcoming = scheduler.step(velocity, t, sample, return_dict=False)[0]
        rows.append(torch.cat([upcoming, scheduler.last_sample, scheduler.model_outputs[-1]]))
    return torch.stack(rows)


class FusedUpdate:
    """The sampler of one generation: ``step`` takes the branches' velocities and returns the next latents.

    Holds the three tensors that UniPC remembers. ``latents_X`` gives their shape and device; ``weights`` are those of
    the branches at every step, copied to the device here so that no step waits for it.
    """

    def __init__(self, scheduler: Any, latents_X: Tensor, weights: Sequence[Sequence[float]]) -> None:
        self._coefficients = update_coefficients(scheduler).to(latents_X.device, torch.float32)
        distinct = {row: torch.tensor(row, dtype=torch.float32, device=latents_X.device) for row in map(tuple, weights)}
        self._weights = [distinct[tuple(row)] for row in weights]
        self._remembered = tuple(torch.zeros_like(latents_X, dtype=torch.float32) for _ in range(3))
        self._growth = (scheduler.sigmas[:-1] / scheduler.sigmas[1:]).to(latents_X.device, torch.float32)

    def step(self, index: int, velocity_BX: Tensor, latents_X: Tensor) -> Tensor:
        """Latents after step ``index``, in new memory. ``velocity_BX``: all branches, in the order of the weights."""
        last, newest, older = self._remembered
        latents_X, corrected, clean = guided_update(
            velocity_BX, self._weights[index], latents_X, last, newest, older, self._coefficients[index]
        )
        self._remembered = (corrected, clean, newest)
        return latents_X

    def carry_change(self, index: int, change_X: Tensor) -> None:
        """As of ``sampling.schedule``, for a change of the latents after step ``index``."""
        corrected, *predictions = self._remembered
        self._remembered = (corrected + change_X * self._growth[index], *predictions)
