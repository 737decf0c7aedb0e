"""What is said and how the lips follow."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.procedural.phonemes import Phoneme, closures, mouth_track, visemes
from training.data.procedural.seeds import stream
from training.data.procedural.sentences import is_heldout, sentence
from training.data.procedural.speech import SpeechBank, num_samples, voices

pytest.importorskip("espeakng_loader")


@pytest.fixture(scope="module")
def bank() -> SpeechBank:
    return SpeechBank.build(128, seed=5, split="train", num_frames=49, workers=1)


def phrase(*symbols: str, seconds: float = 0.12, start: float = 0.2) -> list[Phoneme]:
    return [Phoneme(s, start + i * seconds, start + (i + 1) * seconds) for i, s in enumerate(symbols)]


def test_lips_meet_for_p_b_m_and_open_for_vowels():
    for stop in ("p", "b", "m"):
        phonemes = phrase("A:", stop, "A:")
        openness = mouth_track(phonemes, 25)[:, 0]
        ((start, end),) = closures(phonemes)
        assert openness[int((start + end) / 2 * 25)] == 0.0
        assert openness.max() > 0.7


def test_a_very_short_closure_still_shows():
    phonemes = [Phoneme("A:", 0.1, 0.4), Phoneme("b", 0.4, 0.415), Phoneme("A:", 0.415, 0.8)]
    assert mouth_track(phonemes, 25)[int(0.4075 * 25), 0] == 0.0


def test_rounded_and_spread_vowels_differ_in_width():
    round_lips, spread_lips = (mouth_track(phrase(v, v, v), 20)[8, 1] for v in ("u:", "i:"))
    assert round_lips < -0.5 < 0.5 < spread_lips


def test_unknown_symbols_are_sounds_and_pauses_are_silence():
    assert visemes(";") is None
    assert visemes("§x") is None
    for unknown in (";", "?", "§x"):
        assert mouth_track(phrase("A:", unknown, "A:"), 25)[5:11, 0].min() > 0.2
    assert mouth_track(phrase("_", "_:", "_|", seconds=0.3), 25).max() == 0.0


def test_the_track_is_closed_before_and_after_speech():
    openness = mouth_track(phrase("A:", "t", "A:", start=0.5), 50)[:, 0]
    assert openness[:9].max() == 0.0
    assert openness[26:].max() == 0.0


def test_bank_has_matching_lengths_and_ranges(bank):
    assert bank.samples.shape == (128, num_samples(49))
    assert bank.samples.dtype == np.int16
    assert bank.mouth.shape == (128, 49, 2)
    openness = bank.mouth[..., 0].astype(np.float32)
    assert openness.min() >= 0.0
    assert openness.max() <= 1.0
    assert 0.15 < openness.mean() < 0.5


def test_the_mouth_rests_where_the_sound_rests(bank):
    power = bank.samples[:, : 49 * 640].astype(np.float32).reshape(128, 49, 640) / 32768.0
    level = np.sqrt((power**2).mean(-1))
    openness = bank.mouth[..., 0].astype(np.float32)
    quiet = np.stack([np.roll(level, shift, axis=1) for shift in (-2, -1, 0, 1, 2)]).max(0) < 1e-4
    quiet[:, :3] = quiet[:, -3:] = False
    assert quiet.sum() > 100
    assert openness[quiet].max() < 0.05
    speaking = [i for i in range(128) if openness[i].std() > 0.1]
    correlation = np.mean([np.corrcoef(level[i], openness[i])[0, 1] for i in speaking])
    assert correlation > 0.5
    silent = bank.mode == "silent"
    assert silent.any()
    assert openness[silent].max() == 0.0
    assert not bank.samples[silent].any()


def test_a_bank_depends_on_its_seed_only(bank, tmp_path):
    again = SpeechBank.build(70, seed=5, split="train", num_frames=49, workers=2)
    assert np.array_equal(again.samples[:64], bank.samples[:64])
    assert np.array_equal(again.mouth, bank.mouth[:70])
    bank.save(tmp_path / "bank.npz")
    loaded = SpeechBank.load(tmp_path / "bank.npz")
    assert loaded.split == "train"
    assert loaded.num_frames == 49
    assert np.array_equal(loaded.samples, bank.samples)
    assert list(loaded.text) == list(bank.text)


def test_voices_and_sentences_of_the_splits_are_disjoint():
    train, heldout = (
        {name.split("+")[1] for names in voices(split) for name in names} for split in ("train", "heldout")
    )
    assert not train & heldout
    rng = stream("test")
    assert all(is_heldout(sentence(rng, "heldout")) for _ in range(20))
    assert not any(is_heldout(sentence(rng, "train")) for _ in range(20))


def test_clips_of_a_fifth_of_a_second_speak_too():
    bank = SpeechBank.build(24, seed=5, split="train", num_frames=5, workers=1)
    assert bank.samples.shape == (24, 3200)
