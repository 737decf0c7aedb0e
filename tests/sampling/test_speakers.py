"""Several speakers in the denoise loop: each heard inside of its own mask, null audio for all where audio is absent."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.model.attention import KeyValue
from humo_rt.model.dit import HumoDiT
from humo_rt.sampling.branches import Conditions, GuidedModel
from tests.tiny import tiny_config

FRAMES, SLOTS = 3, 1
LAYOUTS = pytest.mark.parametrize("published", [HUMO_1_7B, HUMO_17B], ids=lambda config: config.name)
NAMES = ("TIA", "TI", "0")


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def model_of(published) -> HumoDiT:
    torch.manual_seed(0)
    return HumoDiT(tiny_config(published).dit).eval().requires_grad_(False)


def conditions_of(model: HumoDiT, *, videos: int = 1) -> Conditions:
    """Two speakers, one in the left third of the picture and one in the right, both silent in the reference frame."""
    config = model.config
    mask = torch.zeros(2, videos, FRAMES + SLOTS, 4, 12)
    mask[0, ..., :4], mask[1, ..., 8:] = 1, 1
    mask[0, :, FRAMES:], mask[1, :, FRAMES:] = 1, 0
    return Conditions(
        text_embeds=list(noise(videos, 5, config.text_dim, seed=1)),
        negative_embeds=noise(7, config.text_dim, seed=2),
        audio=noise(2, videos, FRAMES, config.audio_window, config.audio_bands, config.audio_dim, seed=3),
        reference_latents=noise(videos, 16, SLOTS, 4, 12, seed=4),
        grey_latents=noise(16, FRAMES + SLOTS, 4, 12, seed=5) if config.image_injection == "channels" else None,
        face_mask=mask,
    )


def branches(model: HumoDiT, conditions: Conditions) -> dict[str, torch.Tensor]:
    """The velocity of each branch alone."""
    x = noise(conditions.num_videos, 16, FRAMES + SLOTS, 4, 12, seed=6)
    guided = GuidedModel(model, conditions, x)
    return {name: guided.velocity(x, 700, {name: 1.0}) for name in NAMES}


@LAYOUTS
def test_two_who_say_the_same_are_one_whose_mask_covers_both(published):
    model = model_of(published)
    both = conditions_of(model)
    both = dataclasses.replace(both, audio=both.audio[:1].expand(2, -1, -1, -1, -1, -1))
    one = dataclasses.replace(both, audio=both.audio[0], face_mask=both.face_mask.sum(0))
    found, expected = branches(model, both), branches(model, one)
    for name in NAMES:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=0)


def test_one_speaker_with_an_axis_of_its_own_keeps_it():
    audio = KeyValue(torch.randn(1, 2, 3), torch.randn(1, 2, 3))
    assert audio.select(torch.zeros(1, 1, dtype=torch.int64)).k.shape == (1, 1, 2, 3)
    assert audio.select(torch.zeros(1, dtype=torch.int64)).k.data_ptr() == audio.k.data_ptr()


@LAYOUTS
def test_the_order_of_speakers_does_not_matter(published):
    model = model_of(published)
    conditions = conditions_of(model)
    swapped = dataclasses.replace(conditions, audio=conditions.audio.flip(0), face_mask=conditions.face_mask.flip(0))
    found, expected = branches(model, swapped), branches(model, conditions)
    for name in NAMES:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=0)


def test_audio_is_heard_where_it_is_part_of_the_branch_only():
    model = model_of(HUMO_1_7B)
    conditions = conditions_of(model)
    louder = dataclasses.replace(conditions, audio=torch.cat([conditions.audio[:1], 3 * conditions.audio[1:]]))
    found, expected = branches(model, louder), branches(model, conditions)
    assert (found["TIA"] - expected["TIA"]).abs().max() > 1e-4
    for name in ("TI", "0"):
        assert torch.equal(found[name], expected[name])


def test_each_sound_is_projected_once():
    model = model_of(HUMO_1_7B)
    conditions = conditions_of(model, videos=2)
    guided = GuidedModel(model, conditions, noise(2, 16, FRAMES + SLOTS, 4, 12, seed=6))
    assert guided._projected.audio[0].k.shape[0] == 2 * 2 + 1  # two speakers of two videos, and silence
    assert guided._context_rows(("TIA", "0")) == ((0, 1, 2, 2), ((0, 1, 4, 4), (2, 3, 4, 4)))
    assert guided._context(("TIA", "0")).audio[0].k.shape[:3] == (2, 4, FRAMES + SLOTS)


@LAYOUTS
def test_several_videos_at_once_are_the_videos_alone(published):
    model = model_of(published)
    both = conditions_of(model, videos=2)
    x = noise(2, 16, FRAMES + SLOTS, 4, 12, seed=6)
    weights = {"TIA": 2.0, "TI": -1.0}
    found = GuidedModel(model, both, x).velocity(x, 700, weights)
    for video in range(2):
        alone = dataclasses.replace(
            both,
            text_embeds=both.text_embeds[video : video + 1],
            audio=both.audio[:, video : video + 1],
            reference_latents=both.reference_latents[video : video + 1],
            face_mask=both.face_mask[:, video : video + 1],
        )
        expected = GuidedModel(model, alone, x[video : video + 1]).velocity(x[video : video + 1], 700, weights)
        torch.testing.assert_close(found[video : video + 1], expected, atol=1e-5, rtol=0)
