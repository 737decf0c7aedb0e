"""The natural voice's phoneme times; the network itself only where its packages are installed."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.procedural.natural import end_with_sound, time_phonemes
from training.data.procedural.phonemes import Phoneme, is_pause
from training.data.procedural.speech import SpeechBank


def test_stress_goes_to_the_next_sound_and_gaps_to_the_one_before():
    phonemes = time_phonemes(list("_ˈb i."), np.array([0.1, 0.05, 0.1, 0.05, 0.2, 0.3]), 1.0)
    assert [p.symbol for p in phonemes] == ["_", "b", "i", "_"]
    assert [(round(p.start, 2), round(p.end, 2)) for p in phonemes] == [(1.0, 1.1), (1.1, 1.3), (1.3, 1.5), (1.5, 1.8)]


def test_a_sound_does_not_last_through_the_pause_after_it():
    samples = np.zeros(8000, np.float32)
    samples[:1600] = 0.5
    cut = end_with_sound(Phoneme("t", 0.0, 0.4), samples, 16000)
    assert cut.end == pytest.approx(0.1, abs=0.011)
    assert end_with_sound(Phoneme("t", 0.0, 0.1), samples, 16000).end == 0.1


def test_the_mouth_follows_the_natural_voice():
    pytest.importorskip("hibari")
    pytest.importorskip("onnxruntime")
    bank = SpeechBank.build(4, seed=3, split="train", num_frames=49, natural_share=1.0, workers=1)
    assert all(voice.startswith("natural") for voice in bank.voice)
    level = np.sqrt((bank.samples[:, : 49 * 640].astype(np.float64).reshape(4, 49, 640) ** 2).mean(-1))
    openness = bank.mouth[..., 0].astype(np.float64)
    assert np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(level, openness) if b.std() > 0.05]) > 0.3
    assert is_pause("_")
    assert not is_pause("b")
