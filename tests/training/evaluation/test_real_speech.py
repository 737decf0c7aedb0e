"""Envelope, pauses and the cutting of recordings, on sounds whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training.evaluation import real_speech

FRAMES = 97
SAMPLES = FRAMES * 640


def syllables(seed: int = 0) -> torch.Tensor:
    """Sound of four bursts a second, with a second of silence in the middle."""
    time = torch.arange(SAMPLES) / 16_000
    loudness = (torch.sin(2 * np.pi * 4 * time + seed) > -0.3).float()
    loudness[int(1.5 * 16_000) : int(2.5 * 16_000)] = 0
    return 0.2 * loudness * torch.randn(SAMPLES, generator=torch.Generator().manual_seed(seed))


def test_the_envelope_follows_loudness_per_frame() -> None:
    sound = torch.zeros(1, SAMPLES)
    sound[0, 40 * 640 : 60 * 640] = 0.5
    envelope = real_speech.envelope(sound, FRAMES)
    assert envelope.shape == (1, FRAMES)
    assert torch.allclose(envelope[0, 43:57], torch.tensor(0.5), atol=1e-4)
    assert envelope[0, :37].max() == 0
    assert real_speech.envelope(sound[:, :100], FRAMES).shape == (1, FRAMES)


def test_pauses_leave_the_lips_time_to_close() -> None:
    resting = real_speech.pauses(real_speech.envelope(syllables()[None], FRAMES))[0]
    found = resting.nonzero()[:, 0]
    assert found.min() >= 39
    assert found.max() <= 63
    assert len(found) >= 16


def test_a_mouth_that_follows_the_voice_scores_high_and_another_does_not() -> None:
    sound = torch.stack([syllables(i) for i in range(6)])
    envelope = real_speech.envelope(sound, FRAMES)
    mouth = (3 * envelope).clamp(0, 1)
    good = real_speech.speech_scores(mouth, sound, lag=0)
    assert good["envelope"]["correlation"] > 0.95
    assert good["closed_in_pauses"] == 1.0
    assert good["opening_in_pauses"] < 0.05 < good["opening_in_speech"]
    constant = real_speech.speech_scores(torch.full_like(mouth, 0.4), sound, lag=0)
    assert constant["envelope"]["correlation"] == 0.0
    assert constant["closed_in_pauses"] == 0.0


def test_recordings_are_cut_into_clips_with_silence_around(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    path = tmp_path / "speech.wav"
    soundfile.write(path, (0.1 * np.ones(int(5.2 * 16_000))).astype(np.float32), 16_000)
    first, second = real_speech.windows(path, FRAMES)
    assert len(first) == len(second) == SAMPLES
    assert np.abs(first[: int(0.39 * 16_000)]).max() == 0
    assert np.abs(first[int(0.41 * 16_000)]) > 0
    assert np.abs(second[int(1.8 * 16_000) :]).max() == 0
    soundfile.write(path, (0.1 * np.ones(8_000)).astype(np.float32), 16_000)
    assert real_speech.windows(path, FRAMES) == []
