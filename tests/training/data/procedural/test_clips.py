"""Clips of procedural people: the same index, the same clip; masks, mouths and captions that tell the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.data.procedural import ATTRIBUTES, ProceduralClips, SpeechBank, caption_corpus, caption_from_attributes
from training.data.procedural.appearance import IDENTITY_TRAITS, background, identity, outfit
from training.data.procedural.augment import augment
from training.data.procedural.camera import Box
from training.data.procedural.captions import ANONYMOUS_CAPTIONS
from training.data.procedural.clips import _shot
from training.data.procedural.renderer import render
from training.data.procedural.scene import Scene
from training.data.procedural.seeds import stream


def make_bank(split: str = "train", num_frames: int = 9) -> SpeechBank:
    """A bank with an opening mouth and noise for sound, so that drawing is tested without speech."""
    rng = np.random.default_rng(0)
    samples = (rng.standard_normal((4, round(num_frames / 25 * 16000))) * 1000).astype(np.int16)
    openness = np.linspace(0, 1, num_frames)
    mouth = np.stack([np.stack([openness, np.full_like(openness, w)], -1) for w in (-1, 0, 0, 1)])
    words = np.array(["a"] * 4)
    return SpeechBank(samples, mouth.astype(np.float16), np.array([0, 1, 0, 1]), words, words, words, split, 0)


@pytest.fixture(scope="module")
def clips() -> ProceduralClips:
    return ProceduralClips(3, num_frames=9, speech=make_bank())


@pytest.fixture(scope="module")
def batch(clips):
    return clips.sample([0, 1, 2])


def test_shapes_types_and_ranges(batch):
    assert batch.video.shape == (3, 9, 3, 128, 128)
    assert batch.video.dtype == torch.uint8
    assert batch.reference.shape == (3, 1, 3, 128, 128)
    assert batch.reference.dtype == torch.uint8
    assert batch.face_mask.shape == batch.mouth_mask.shape == (3, 9, 128, 128)
    assert batch.audio.shape == (3, 5760)
    assert batch.audio.dtype == torch.float32
    assert batch.audio.abs().max() <= 1
    assert torch.equal(batch.mouth_open, batch.mouth_shape[..., 1])
    assert set(batch.attributes) == set(ATTRIBUTES)
    assert all(0 <= int(v.max()) < len(ATTRIBUTES[k]) for k, v in batch.attributes.items())
    assert len(batch) == len(batch.captions) == len(batch.captions_anonymous) == 3


def test_a_clip_depends_on_its_index_only(clips, batch):
    alone = ProceduralClips(3, num_frames=9, speech=make_bank()).sample([2])
    # Vector units may round a lane differently when a batch is cut elsewhere: at most one grey level.
    assert (alone.video[0].int() - batch.video[2].int()).abs().max() <= 1
    assert alone.captions == batch.captions[2:]
    assert torch.equal(alone.audio[0], batch.audio[2])
    again = clips.sample([0, 1, 2])
    assert torch.equal(again.video, batch.video)
    assert torch.equal(again.reference, batch.reference)
    assert not torch.equal(clips.sample([3]).video[0], batch.video[0])


def test_the_reference_shows_the_same_person_in_another_shot(batch):
    assert (batch.reference[:, 0].float() - batch.video[:, 0].float()).abs().mean() > 5


def test_masks_lie_where_the_face_is(batch):
    area = batch.face_mask.float().mean(dim=(2, 3))
    assert area.min() > 0.08
    assert area.max() < 0.35
    assert (batch.mouth_mask & ~batch.face_mask).float().mean() < 0.002
    rows = torch.arange(128.0)
    for mask in batch.mouth_mask.flatten(0, 1):
        columns = mask.any(0).nonzero()
        assert 13 <= int(columns.max() - columns.min()) + 1 <= 34
        assert 64 < (mask.float().sum(1) * rows).sum() / mask.sum() < 110


def test_the_opening_in_the_picture_follows_the_track():
    openness = np.linspace(0, 1, 24)
    rng = stream("test")
    shots = []
    for number in range(6):
        track = np.stack([rng.permutation(openness), rng.uniform(-0.5, 0.5, 24)], -1)
        shots.append(_shot(rng, identity(number, "train"), outfit(rng), background(rng), track))
    pictures = render(Scene(shots, "cpu"), 128, 128)
    dark = _dark_area(pictures.rgb, pictures.mouth).view(6, 24).numpy()
    for shot, areas in zip(shots, dark, strict=True):
        assert np.corrcoef(shot.tracks["mouth_open"], areas)[0, 1] > 0.95
        assert areas[shot.tracks["mouth_open"] == 0].max() < 0.12 * areas.max()


def test_painting_only_where_a_feature_can_be_changes_nothing(monkeypatch):
    track = np.stack([np.linspace(0, 1, 5), np.linspace(-1, 1, 5)], -1)
    rngs = [stream("cut", number) for number in range(12)]
    shots = [_shot(r, identity(n, "train"), outfit(r), background(r), track) for n, r in enumerate(rngs)]
    cut = render(Scene(shots, "cpu"), 96, 128)
    monkeypatch.setattr(Box, "window", lambda box, extent, height, width: (slice(0, height), slice(0, width)))
    full = render(Scene(shots, "cpu"), 96, 128)
    assert (cut.rgb.int() - full.rgb.int()).abs().max() <= 1
    assert torch.equal(cut.face, full.face)
    assert torch.equal(cut.mouth, full.mouth)


def _dark_area(rgb, mouth):
    """Mouth pixels darker than half of the lips' usual brightness."""
    level = rgb.float().mean(1)
    inside = torch.where(mouth, level, torch.nan)
    return (mouth & (level < 0.55 * inside.flatten(1).nanquantile(0.8, 1)[:, None, None])).float().sum((1, 2))


def test_people_of_the_splits_share_no_combination_of_traits():
    people = {
        split: {tuple(identity(n, split).names[t] for t in IDENTITY_TRAITS) for n in range(300)}
        for split in ("train", "heldout")
    }
    assert not people["train"] & people["heldout"]
    assert len(people["train"]) > 80
    assert len(people["heldout"]) > 15


def test_a_bank_of_the_wrong_split_is_refused():
    with pytest.raises(ValueError, match="heldout"):
        ProceduralClips(0, "heldout", num_frames=9, speech=make_bank("train"))
    with pytest.raises(ValueError, match="97"):
        ProceduralClips(0, num_frames=97, speech=make_bank())


def test_portraits_come_in_any_size(clips):
    assert clips.portrait(0, 96, 160).shape == (3, 96, 160)


def test_captions_name_what_they_are_given():
    names = {k: v[-1] for k, v in ATTRIBUTES.items()}
    text = caption_from_attributes(names)
    assert text == (
        "A man with a grey mohawk, a full beard and square glasses wearing a checked black top is talking to the "
        "camera in front of a white wall with a window."
    )
    for rng in (stream("caption", i) for i in range(30)):
        text = caption_from_attributes(names, rng)
        assert all(
            word in text for word in ("grey", "mohawk", "beard", "square", "checked", "black", "white", "window")
        )
    assert caption_from_attributes({}) == "A person is talking to the camera."


def test_anonymous_captions_name_nothing():
    words = {value for values in ATTRIBUTES.values() for value in values} | {"glasses", "beard", "hair", "wearing"}
    assert not any(word in caption.lower().split() for caption in ANONYMOUS_CAPTIONS for word in words)


def test_the_corpus_is_varied_and_repeatable():
    corpus = caption_corpus(200, seed=1)
    assert corpus == caption_corpus(200, seed=1)
    assert len(set(corpus)) > 170


def test_augmentation_is_repeatable_and_keeps_the_timing():
    audio = torch.zeros(2, 16000)
    audio[:, 8000:8400] = torch.randn(2, 400) * 0.1
    first, second = (augment(audio, [("k", 0), ("k", 1)]) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == audio.shape
    assert first.abs().max() <= 1
    peak = first.abs().argmax(dim=1)
    assert ((peak > 7900) & (peak < 8500)).all()
