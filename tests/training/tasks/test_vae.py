from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from humo_rt.config import VAEConfig, preset
from humo_rt.model.vae import VideoVAE
from tests.training.tasks.moving_mouths import MouthSource
from training.task import Moment, Sampling, Task
from training.tasks.sources import ClipSize
from training.tasks.vae import VAETask, VAETaskConfig, fold_statistics

CPU = torch.device("cpu")
TINY = dataclasses.replace(preset("nano").vae, base_dim=8, dim_mult=(1, 1, 1))
CONFIG = VAETaskConfig(
    vae=TINY,
    source=MouthSource(clips=6),
    size=ClipSize(height=32, width=32, num_frames=13),
    cuts=((4, 5, 16), (2, 9, None)),
    stills=2,
    held_out_clips=2,
    validate_every=4,
    statistics_clips=6,
)


@pytest.fixture(scope="module")
def task() -> VAETask:
    task = VAETask(CONFIG)
    task.prepare(CPU, 0, 1)
    return task


def _moment(step: int) -> Moment:
    return Moment(seed=0, step=step, index=step)


def test_a_few_steps_lower_the_loss(task):
    assert isinstance(task, Task)
    torch.manual_seed(0)
    model = task.build(CPU).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = task.batch(_moment(1))
    losses = []
    for _ in range(8):
        loss, scalars = task.loss(model, batch, _moment(1))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.85 * losses[0]
    assert "whole/psnr" in scalars


def test_batches_are_functions_of_the_moment_and_take_turns(task):
    assert torch.equal(task.batch(_moment(3)).video_BCFHW, task.batch(_moment(3)).video_BCFHW)
    shapes = [tuple(task.batch(_moment(step)).video_BCFHW.shape) for step in range(4)]
    assert shapes == [(4, 3, 5, 16, 16), (2, 3, 9, 32, 32), (2, 3, 1, 32, 32), (4, 3, 5, 16, 16)]


def test_examinations_appear_in_the_log_when_due(task):
    model = task.build(CPU)
    _, scalars = task.loss(model, task.batch(_moment(4)), _moment(4))
    assert {"held_out/psnr", "held_out/mouth", "held_out/mouth_true"} <= scalars.keys()
    assert scalars["held_out/mouth_true"] > 0.9


def test_samples_show_true_beside_reconstructed(task):
    assert isinstance(task, Sampling)
    videos = task.samples(task.build(CPU), 0)
    assert len(videos) == 2
    assert all(video.shape == (13, 3, 32, 64) and video.dtype == torch.uint8 for video in videos.values())


def test_the_shipped_file_has_normalised_latents_and_the_same_pictures(task, tmp_path):
    torch.manual_seed(0)
    model = task.build(CPU)
    task.export(model.state_dict(), tmp_path / "vae.safetensors")
    stored = load_file(tmp_path / "vae.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    shipped = VideoVAE(TINY)
    shipped.autoencoder.load_state_dict({name: value.float() for name, value in stored.items()})
    video = task.pool.whole(0, 6).video_BCFHW
    with torch.no_grad():
        latents = shipped.encode(video)
        expected = model.decode(model.encode(video))
        torch.testing.assert_close(shipped.decode(latents), expected, atol=5e-3, rtol=0)
    assert latents.mean(dim=(0, 2, 3, 4)).abs().max() < 0.02
    assert (latents.std(dim=(0, 2, 3, 4)) - 1).abs().max() < 0.02


def test_folding_keeps_the_reconstruction_for_any_stated_statistics():
    torch.manual_seed(0)
    stated = dataclasses.replace(TINY, latents_mean=VAEConfig().latents_mean, latents_std=VAEConfig().latents_std)
    model = VideoVAE(stated).double()
    video = torch.rand(2, 3, 5, 16, 16, dtype=torch.float64)
    mean, std = torch.linspace(-1, 1, 16, dtype=torch.float64), torch.linspace(0.5, 2, 16, dtype=torch.float64)
    with torch.no_grad():
        latents, made = model.encode(video), model.decode(model.encode(video))
        fold_statistics(model, mean, std, posterior_std=0.1)
        view = (1, 16, 1, 1, 1)
        torch.testing.assert_close(model.encode(video), ((latents - mean.view(view)) / std.view(view)).float())
        torch.testing.assert_close(model.decode(model.encode(video)), made, atol=1e-5, rtol=0)
        deviation = (model.encode_moments(video)[:, 16:] / 2).exp() / torch.tensor(stated.latents_std).view(view)
    torch.testing.assert_close(deviation, torch.full_like(deviation, 0.1), atol=1e-5, rtol=0)
