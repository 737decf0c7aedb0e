"""The callback and the progress of a step: what they are given, and what the callback may give back."""

from __future__ import annotations

import pytest
import torch

from humo_rt.config import NANO
from humo_rt.request import GenerationRequest
from humo_rt.step_observer import step_observer


def request(**options) -> GenerationRequest:
    return GenerationRequest(prompt="a person speaks", **options).validated(NANO)


def test_a_step_reports_progress_and_lets_the_callback_change_the_latents():
    with step_observer(request(), None) as on_step:
        assert on_step is None
    seen = []
    observed = request(
        num_inference_steps=2,
        progress=lambda done, total: seen.append((done, total)),
        callback_on_step_end=lambda pipe, step, timestep, values: (
            seen.append((pipe, step, timestep)) or ({"latents": values["latents"] + 1} if step else None)
        ),
    )
    with step_observer(observed, "pipe") as on_step:
        assert on_step(0, 999, torch.zeros(1)).item() == 0
        assert on_step(1, 500, torch.zeros(1)).item() == 1
    assert seen == [("pipe", 0, 999), (1, 2), ("pipe", 1, 500), (2, 2)]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (torch.zeros(2, 3), 'returned Tensor: return {"latents": tensor}, or None'),
        ({"latent": torch.zeros(2, 3)}, "returned 'latent': return .*, or None for no change"),
        ({"latents": torch.zeros(2)}, r"returned latents of \[2\]: keep the shape \[2, 3\]"),
        ({"latents": None}, r"returned latents of NoneType: keep the shape \[2, 3\]"),
    ],
)
def test_a_callback_that_returns_something_else_is_told(returned, message):
    observed = request(callback_on_step_end=lambda *_: returned)
    with step_observer(observed, None) as on_step, pytest.raises(ValueError, match=message):
        on_step(0, 999, torch.zeros(2, 3))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_latents_from_a_callback_go_on_in_float32(kind):
    observed = request(callback_on_step_end=lambda *_: {"latents": torch.ones(2, 3, dtype=kind)})
    with step_observer(observed, None) as on_step:
        found = on_step(0, 999, torch.zeros(2, 3))
    assert found.dtype == torch.float32
    assert found.min() == 1


def test_the_bar_goes_when_a_step_fails(monkeypatch):
    from rich.console import Console
    from rich.progress import Progress

    bars = []
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setattr(Progress, "start", lambda bar: bars.append(bar))
    monkeypatch.setattr(Progress, "stop", lambda bar: bars.remove(bar))

    def interrupted_after_one_step():
        with step_observer(request(progress=True, num_inference_steps=3), None) as on_step:
            on_step(0, 999, torch.zeros(1))
            assert bars[0].tasks[0].completed == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_after_one_step()
    assert not bars
