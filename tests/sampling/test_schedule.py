"""Sigma tables and sampler trajectories against the release."""

from __future__ import annotations

import pytest
import torch

from humo_rt.sampling.schedule import make_scheduler, model_timesteps
from tests.golden_data import load_group, recipe_input

SETTINGS, TENSORS = load_group("scheduler")


@pytest.mark.parametrize("entry", SETTINGS["tables"], ids=lambda entry: entry["key"])
def test_tables_are_the_releases(entry: dict) -> None:
    scheduler = make_scheduler(entry["steps"], entry["shift"])
    assert torch.equal(scheduler.sigmas, TENSORS[f"{entry['key']}.sigmas"])
    assert model_timesteps(scheduler) == TENSORS[f"{entry['key']}.timesteps"].tolist()


@pytest.mark.parametrize("entry", SETTINGS["trajectories"], ids=lambda entry: entry["key"])
def test_trajectories_are_the_releases(entry: dict) -> None:
    scheduler = make_scheduler(entry["steps"], entry["shift"])
    x, drift = recipe_input(entry["x"]), recipe_input(entry["c"])
    expected = TENSORS[f"{entry['key']}.samples"]
    for index, (t, timestep) in enumerate(zip(scheduler.timesteps, model_timesteps(scheduler), strict=True)):
        velocity = drift - x * (0.25 + timestep / 2000) + 0.3 * torch.tanh(x)
        x = scheduler.step(velocity, t, x).prev_sample
        torch.testing.assert_close(x, expected[index + 1], atol=2e-5, rtol=0)


@pytest.mark.parametrize("sampler", ["unipc", "euler"])
def test_a_straight_path_ends_at_the_clean_sample(sampler: str) -> None:
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 3), torch.randn(2, 3)
    scheduler = make_scheduler(6, 5.0, sampler=sampler)
    sigma = scheduler.sigmas[0].item()
    x = (1 - sigma) * clean + sigma * noise
    for t in scheduler.timesteps:
        x = scheduler.step(noise - clean, t, x).prev_sample
    torch.testing.assert_close(x, clean, atol=1e-4, rtol=0)


def test_euler_and_unipc_share_the_schedule() -> None:
    unipc, euler = make_scheduler(10, 5.0), make_scheduler(10, 5.0, sampler="euler")
    torch.testing.assert_close(euler.sigmas.float(), unipc.sigmas, atol=1e-6, rtol=0)


def test_unknown_sampler_is_named() -> None:
    with pytest.raises(ValueError, match="unknown sampler 'ddim'"):
        make_scheduler(4, 5.0, sampler="ddim")
