"""Batched generation with a model of a few thousand random parameters."""

from __future__ import annotations

import pytest
import torch

from humo_rt.weights.components import Components
from humo_rt.weights.modules import NETWORKS, build_on_meta
from humo_rt.weights.random_init import byte_tokenizer, fill_random
from tests.training.evaluation.clips import invented_clips
from tests.training.tiny import CHANNELS, FRAMES, tiny_model
from training.evaluation import protocol
from training.evaluation.generation import MASK_TIMESTEPS, BatchGenerator, Order

CLIPS = invented_clips(count=3, frames=5)


def components(dit=FRAMES) -> Components:
    config = tiny_model(dit)
    modules = build_on_meta(config)
    for part in NETWORKS:
        fill_random(modules[part], part=part, seed=0, dtype=torch.float32, device="cpu")
        modules[part].eval().requires_grad_(False)
    return Components(config=config, tokenizer=byte_tokenizer(), **modules)


@pytest.fixture(scope="module")
def generator() -> BatchGenerator:
    return BatchGenerator(components(), steps=2, batch_size=2)


def order(name: str) -> Order:
    return protocol.order_for(next(run for run in protocol.RUNS if run.name == name), CLIPS)


@pytest.mark.parametrize("name", ["T", "TI", "TA", "TIA", "none"])
def test_every_mode_gives_a_video_per_clip(generator: BatchGenerator, name: str) -> None:
    video = generator(order(name))
    assert video.shape == CLIPS.video_BFCHW.shape
    assert video.dtype == torch.uint8
    assert not torch.equal(video[0], video[1])


def test_the_batch_size_does_not_change_a_video(generator: BatchGenerator) -> None:
    together = BatchGenerator(components(), steps=2, batch_size=3)(order("TIA"))
    apart = generator(order("TIA"))
    assert (together.int() - apart.int()).abs().max() <= 1


def test_the_seed_changes_every_video(generator: BatchGenerator) -> None:
    other = BatchGenerator(components(), steps=2, batch_size=2, seed=1)(order("TIA"))
    assert (other != generator(order("TIA"))).flatten(1).any(1).all()


def test_masks_are_predicted_at_several_timesteps(generator: BatchGenerator) -> None:
    iou = generator.mask_iou(order("TIA"), CLIPS.video_BFCHW, CLIPS.face_BFHW)
    assert tuple(iou) == MASK_TIMESTEPS
    assert all(values.shape == (3,) and 0 <= values.min() <= values.max() <= 1 for values in iou.values())


def test_reconstructions_have_the_video_s_shape(generator: BatchGenerator) -> None:
    assert generator.reconstruct(CLIPS.video_BFCHW).shape == CLIPS.video_BFCHW.shape


def test_models_with_condition_channels_are_driven_too() -> None:
    assert BatchGenerator(components(CHANNELS), steps=1)(order("TIA")).shape == CLIPS.video_BFCHW.shape
