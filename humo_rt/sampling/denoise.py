"""The denoise loop.

Shape legend: N videos, C 16 latent channels, T latent frames with the reference slots last, H W latent size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from humo_rt.model.dit import HumoDiT
from humo_rt.sampling.branches import Conditions, GuidedModel
from humo_rt.sampling.guidance import GuidanceTable
from humo_rt.sampling.schedule import model_timesteps

OnStep = Callable[[int, int, Tensor], Tensor]


@torch.no_grad()
def denoise(
    model: HumoDiT,
    conditions: Conditions,
    noise_NCTHW: Tensor,
    *,
    guidance: GuidanceTable,
    scheduler: Any,
    branch_batch_size: int | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Run every step of ``scheduler`` and return the clean video latents (N, 16, T - slots, H, W) in float32.

    ``noise_NCTHW`` is float32 noise over all frames, reference slots included: the sampler advances those too, the
    result leaves them out. ``on_step(index, timestep, latents)`` is called after each step and returns the latents to
    go on with.
    """
    guided = GuidedModel(model, conditions, noise_NCTHW, branch_batch_size=branch_batch_size)
    table = guidance.restricted_to(conditions.mode)
    scheduler.set_begin_index(0)
    latents = noise_NCTHW.float()
    for index, (t, timestep) in enumerate(zip(scheduler.timesteps, model_timesteps(scheduler), strict=True)):
        velocity = guided.velocity(latents, timestep, table.at(timestep))
        latents = scheduler.step(velocity, t, latents, return_dict=False)[0]
        if on_step is not None:
            latents = on_step(index, timestep, latents)
    return latents[:, :, : latents.shape[2] - conditions.num_slots]
