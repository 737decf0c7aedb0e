from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from training.audio_augment import AugmentConfig
from training.tasks.audio_segments import SegmentConfig, compose, speech_rows

FRAMES, SAMPLES = 97, 62_080
CLEAN = SegmentConfig(
    packed_share=1.0,
    recorded_share=0.0,
    speed=(1.0, 1.0),
    place_gain_db=0.0,
    augment=AugmentConfig(
        filter_share=0, throat_share=0, muffle_share=0, room_share=0, noise_share=0, babble_share=0, gain_db=(0.0, 0.0)
    ),
)


@pytest.fixture(scope="module")
def rows():
    """Speech whose loudness is its mouth's opening, so that sound and mouth can be compared."""
    rng = np.random.default_rng(0)
    mouth = np.zeros((6, FRAMES, 2), np.float32)
    mouth[..., 0] = np.repeat(rng.uniform(0, 1, (6, 17)), 6, axis=1)[:, :FRAMES]
    level = np.repeat(mouth[..., 0], 640, axis=1)
    samples = (level * np.sin(np.arange(SAMPLES) * 0.8) * 20_000).astype(np.int16)
    return speech_rows(samples, mouth, [], torch.device("cpu"))


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _loudness(sound_BS: torch.Tensor) -> torch.Tensor:
    """Level around the moment of every encoder state."""
    padded = torch.nn.functional.pad(sound_BS, (160, 160))
    return padded.unfold(1, 320, 320).square().mean(-1).sqrt()[:, :1500]


@pytest.mark.parametrize("speed", [(1.0, 1.0), (0.8, 1.25)])
def test_the_mouth_follows_the_sound_at_every_speed(rows, speed):
    segments = compose(rows, dataclasses.replace(CLEAN, speed=speed), 3, _generator())
    assert segments.sound_BS.shape == (3, 480_000)
    assert segments.mouth_BT2.shape == (3, 1500, 2)
    assert segments.heard_BT.all()
    pair = torch.stack([_loudness(segments.sound_BS).flatten(), segments.mouth_BT2[..., 0].flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.97


def test_padded_segments_are_silent_behind_their_end(rows):
    config = dataclasses.replace(CLEAN, packed_share=0.0, augment=AugmentConfig())
    segments = compose(rows, config, 4, _generator(3))
    for sound, heard in zip(segments.sound_BS, segments.heard_BT, strict=True):
        length = int(heard.sum())
        assert heard[:length].all()
        assert sound[length * 320 :].abs().max() == 0
    assert not segments.heard_BT.all()
    assert not (segments.seen_BT & ~segments.heard_BT).any()


def test_recordings_are_heard_but_their_mouth_is_not_seen(tmp_path, rows):
    import soundfile

    soundfile.write(tmp_path / "speech.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 80_000), 16_000)
    mixed = speech_rows(rows.samples_NR.numpy(), rows.mouth_NF2.numpy(), [tmp_path / "speech.wav"], torch.device("cpu"))
    assert len(mixed.samples_NR) > mixed.num_spoken == 6
    recorded = compose(mixed, dataclasses.replace(CLEAN, recorded_share=1.0), 2, _generator())
    assert recorded.heard_BT.all()
    assert not recorded.seen_BT.any()
    half = compose(mixed, dataclasses.replace(CLEAN, recorded_share=0.5), 4, _generator())
    assert 0.2 < half.seen_BT.float().mean() < 0.8


def test_segments_are_a_function_of_the_generator(rows):
    one, same = (compose(rows, SegmentConfig(), 2, _generator(5)) for _ in range(2))
    assert torch.equal(one.sound_BS, same.sound_BS)
    assert torch.equal(one.mouth_BT2, same.mouth_BT2)
