"""The denoise loop.

Shape legend: N videos, C 16 latent channels, T latent frames with the reference slots last, H W latent size.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from humo_rt.model.dit import HumoDiT
from humo_rt.runtime.fused_update import FusedUpdate, is_linear
from humo_rt.sampling.branches import Conditions, GuidedModel
from humo_rt.sampling.guidance import GuidanceTable
from humo_rt.sampling.reuse import GuidanceReuse, ReusingModel, computed_branches
from humo_rt.sampling.schedule import advance, carry_change, model_timesteps

OnStep = Callable[[int, int, Tensor], Tensor]
AroundStep = Callable[[int, int], AbstractContextManager[Any]]

_NOTHING = nullcontext()


def _unobserved(index: int, branches: int) -> AbstractContextManager[Any]:
    return _NOTHING


@torch.no_grad()
def denoise(
    model: HumoDiT,
    conditions: Conditions,
    noise_NCTHW: Tensor,
    *,
    guidance: GuidanceTable,
    scheduler: Any,
    branch_batch_size: int | None = None,
    reuse: GuidanceReuse | None = None,
    on_step: OnStep | None = None,
    around_step: AroundStep = _unobserved,
) -> Tensor:
    """Run every step of ``scheduler`` and return the clean video latents (N, 16, T - slots, H, W) in float32.

    ``noise_NCTHW`` is float32 noise over all frames, reference slots included, which the result leaves out. The sampler
    advances those too, but for models with ``"frames"`` injection on a GPU: these see the references in their place, so
    the slots stay noise. ``on_step(index, timestep, latents)`` is called after each step and returns the latents to
    go on with. ``reuse`` computes some branches less often, which changes the result. ``around_step(index, branches)``
    gives a context manager that is entered for the step alone, to measure it; ``branches`` are those it computes. No
    step waits for the device.
    """
    options = {"branch_batch_size": branch_batch_size}
    if reuse is None:
        guided = GuidedModel(model, conditions, noise_NCTHW, **options)
    else:
        guided = ReusingModel(model, conditions, noise_NCTHW, reuse=reuse, **options)
    table = guidance.restricted_to(conditions.mode)
    timesteps = model_timesteps(scheduler)
    weights = [table.at(timestep) for timestep in timesteps]
    computed = computed_branches(table, timesteps, reuse)
    guided.prepare(computed)
    latents = noise_NCTHW.float()
    # One pass instead of some forty; on the CPU passes cost little, and latents stay the release's to the bit.
    fused = reuse is None and latents.device.type == "cuda" and is_linear(scheduler)
    update = FusedUpdate(scheduler, latents, [tuple(step.values()) for step in weights]) if fused else None
    carry = partial(carry_change, scheduler) if update is None else update.carry_change
    scheduler.set_begin_index(0)
    for index, (t, timestep) in enumerate(zip(scheduler.timesteps, timesteps, strict=True)):
        with around_step(index, len(computed[index])):
            if update is not None:
                latents = update.step(index, guided.branches(latents, timestep, tuple(weights[index])), latents)
            else:
                latents = advance(scheduler, guided.velocity(latents, timestep, weights[index]), t, latents)
        if on_step is not None:
            stepped = latents.clone()  # a callback may also write into what it is given
            latents = on_step(index, timestep, latents)
            if index + 1 < len(timesteps):
                carry(index, latents - stepped)
    return latents[:, :, : latents.shape[2] - conditions.num_slots]
