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


def update_coefficients(scheduler: Any) -> Tensor:
    """Coefficients of every step, float64 (steps, 3, 5), in the order of ``kernels.guided_update``.

    ``scheduler`` is a diffusers UniPC scheduler of order 1 or 2 before its first step; it is left alone. ``ValueError``
    for another scheduler, and for thresholding, which is not linear.
    """
    if type(scheduler).__name__ != "UniPCMultistepScheduler" or scheduler.config.solver_order > 2:
        raise ValueError(f"{type(scheduler).__name__} is not UniPC of order 1 or 2: run its own step() instead")
    if scheduler.config.thresholding:
        raise ValueError("the scheduler clips its predictions (thresholding): run its own step() instead")
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

    Holds the three tensors that UniPC remembers. ``latents_X`` gives their shape and device.
    """

    def __init__(self, scheduler: Any, latents_X: Tensor) -> None:
        self._coefficients = update_coefficients(scheduler).to(latents_X.device, torch.float32)
        self._remembered = tuple(torch.zeros_like(latents_X, dtype=torch.float32) for _ in range(3))

    def step(self, index: int, velocity_BX: Tensor, weights: Tensor | Sequence[float], latents_X: Tensor) -> Tensor:
        """Latents after step ``index``. ``velocity_BX`` holds all branches; ``weights`` is float32 (B,) or numbers."""
        if not isinstance(weights, Tensor):
            weights = torch.tensor(weights, dtype=torch.float32, device=velocity_BX.device)
        last, newest, older = self._remembered
        latents_X, corrected, clean = guided_update(
            velocity_BX, weights, latents_X, last, newest, older, self._coefficients[index]
        )
        self._remembered = (corrected, clean, newest)
        return latents_X
