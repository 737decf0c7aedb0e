"""The sampler's update as one pass: the same latents as diffusers' UniPC at every step."""

from __future__ import annotations

import pytest
import torch

from humo_rt.runtime.fused_update import FusedUpdate, update_coefficients
from humo_rt.sampling.schedule import carry_change, make_scheduler

WEIGHTS = (7.5, -3.5, 2.0, -5.0)


def branches_of(latents: torch.Tensor, index: int) -> torch.Tensor:
    """Four velocities that differ and bend with the latents, so that the order of the solver matters."""
    shifts = torch.arange(4, dtype=latents.dtype).reshape(-1, *(1,) * latents.ndim)
    return torch.tanh(latents + 0.1 * shifts) * (1 + 0.05 * index) - 0.3 * latents


def guided(velocity: torch.Tensor) -> torch.Tensor:
    weights = torch.tensor(WEIGHTS, dtype=velocity.dtype).reshape(-1, *(1,) * (velocity.ndim - 1))
    return (velocity * weights).sum(0)


def run_scheduler(
    steps: int, shift: float, noise: torch.Tensor, changed: dict[int, float] | None = None
) -> list[torch.Tensor]:
    """The latents of every step; ``changed``: what is added to those after some of them."""
    scheduler = make_scheduler(steps, shift)
    scheduler.set_begin_index(0)
    latents, every = noise, []
    for index, t in enumerate(scheduler.timesteps):
        latents = scheduler.step(guided(branches_of(latents, index)), t, latents, return_dict=False)[0]
        if changed and index in changed:
            latents = latents + changed[index]
            carry_change(scheduler, index, torch.full_like(latents, changed[index]))
        every.append(latents)
    return every


def run_fused(
    steps: int, shift: float, noise: torch.Tensor, changed: dict[int, float] | None = None
) -> list[torch.Tensor]:
    update, latents, every = FusedUpdate(make_scheduler(steps, shift), noise, [WEIGHTS] * steps), noise, []
    for index in range(steps):
        latents = update.step(index, branches_of(latents, index), latents)
        if changed and index in changed:
            latents = latents + changed[index]
            update.carry_change(index, torch.full_like(latents, changed[index]))
        every.append(latents)
    return every


@pytest.mark.parametrize("changed", [None, {0: 1.0, 7: -2.0, 18: 0.5}])
@pytest.mark.parametrize(("steps", "shift"), [(20, 5.0), (20, 3.0), (50, 5.0), (2, 5.0), (1, 5.0)])
def test_every_step_of_a_loop_agrees_to_rounding(steps, shift, changed):
    """The rule for kernels: at most twice the float32 scheduler's own distance from it in float64, plus rounding."""
    noise = torch.randn(2, 4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    changed = {index: change for index, change in (changed or {}).items() if index + 1 < steps}
    truths = run_scheduler(steps, shift, noise.double(), changed)
    eagers, actuals = run_scheduler(steps, shift, noise, changed), run_fused(steps, shift, noise, changed)
    for actual, eager, truth in zip(actuals, eagers, truths, strict=True):
        rounding = 2 * (eager + 0.3 - 0.3 - eager).abs().max()
        assert (actual - truth).abs().max() <= 2 * (eager - truth).abs().max() + rounding


def test_the_scheduler_is_left_alone():
    scheduler = make_scheduler(5, 5.0)
    assert update_coefficients(scheduler).shape == (5, 3, 5)
    assert scheduler.last_sample is None
    assert scheduler.model_outputs == [None, None]


def test_coefficients_are_finite_and_the_first_step_needs_no_past():
    coefficients = update_coefficients(make_scheduler(20, 5.0))
    assert coefficients.isfinite().all()
    assert not coefficients[0, :, 2:].any()
    assert not coefficients[-1, 0, 1:].allclose(torch.zeros(4, dtype=torch.float64))


def test_another_scheduler_is_refused():
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler is not UniPC"):
        update_coefficients(make_scheduler(5, 5.0, sampler="euler"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"solver_order": 3}, "not UniPC of order 1 or 2"), ({"thresholding": True}, "without thresholding")],
)
def test_a_solver_that_is_not_such_a_sum_is_refused(changes, message):
    scheduler = make_scheduler(5, 5.0)
    with pytest.raises(ValueError, match=message):
        update_coefficients(type(scheduler).from_config(scheduler.config, **changes))
