"""Utterances for talking people: 16 kHz sound and the mouth movement that belongs to it.

Knows voices, pauses and timing. A bank is built once by worker processes; every fixed block of utterances is spoken by
a fresh process, so the same (seed, split, index) gives the same samples however many workers there are.
"""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from training.data.procedural.espeak import Espeak, Voice
from training.data.procedural.natural import Natural, Speaker
from training.data.procedural.phonemes import Phoneme, is_pause, mouth_track
from training.data.procedural.seeds import stream
from training.data.procedural.sentences import sentence

Split = Literal["train", "heldout"]
SAMPLE_RATE = 16_000
FPS = 25
BLOCK = 64
LOUDNESS = 0.09  # root mean square of the sounding part
WOMAN, MAN = 0, 1
MODES = ("whole", "late", "pause", "early", "silent")
MODE_WEIGHTS = (0.5, 0.13, 0.19, 0.14, 0.04)

_LANGUAGES = ("en-us", "en-gb-scotland", "en-029", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc")
_VARIANTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "train": (
        ("f1", "f2", "f3", "f5", "linda", "steph", "belinda", "Alicia", "Andrea", "steph2", "anika", "shelby"),
        ("m1", "m2", "m3", "m4", "m6", "m7", "m8", "adam", "david", "rob", "paul", "Lee", "travis", "klatt2", "Mike",
         "iven", "benjamin", "Gene", "quincy", "max"),
    ),
    "heldout": (("f4", "Annie", "steph3", "aunty"), ("m5", "ed", "john", "klatt4", "Michael", "Andy")),
}  # fmt: skip


def voices(split: Split) -> tuple[list[str], list[str]]:
    """Names of the women's and the men's voices of a split; the variants of the two splits are disjoint."""
    women, men = _VARIANTS[split]
    return tuple([f"{language}+{variant}" for language in _LANGUAGES for variant in names] for names in (women, men))


# Words that a clip which ends early may say, however short it is.
SHORT_SENTENCE = 6


@dataclass(frozen=True)
class Utterance:
    """``samples`` (S,) float32 at 16 kHz, ``mouth`` (F, 2) openness and width, the speaker's gender and the words."""

    samples: np.ndarray
    mouth: np.ndarray
    gender: int
    voice: str
    text: str
    mode: str


def num_samples(num_frames: int) -> int:
    """Samples that accompany ``num_frames`` frames."""
    return round(num_frames / FPS * SAMPLE_RATE)


@dataclass(frozen=True, kw_only=True)
class Engines:
    """What can speak; ``natural_share`` of the utterances use ``natural``, whose one voice serves training only."""

    espeak: Espeak
    natural: Natural | None = None
    natural_share: float = 0.0


def speak(engines: Engines, seed: int, split: Split, index: int, num_frames: int) -> Utterance:
    """Compose utterance ``index``: sentences on a time line with a late start, a pause or an early end by its mode."""
    rng = stream("speech", split, seed, index)
    mode = str(rng.choice(MODES, p=MODE_WEIGHTS))
    gender = int(rng.integers(2))
    engine, voice, name = _cast(engines, rng, split, gender)
    effort = float(rng.uniform(0.88, 1.12))
    duration = num_frames / FPS
    latest = 0.45 * duration
    starts = {"whole": -rng.uniform(0.0, 1.5), "late": rng.uniform(min(0.4, latest), latest)}
    cursor = starts.get(mode, rng.uniform(0, 0.3))
    long_pause_after = int(rng.integers(1, 3)) if mode == "pause" else 0
    sentences_left = 0 if mode == "silent" else 1 if mode == "early" else 99
    timeline = np.zeros(num_samples(num_frames), np.float32)
    phonemes: list[Phoneme] = []
    words: list[str] = []
    while cursor < duration and sentences_left:
        text = sentence(rng, split)
        if mode == "early" and len(text.split()) > max(SHORT_SENTENCE, 2.2 * duration):
            continue
        samples, spoken, rate = engine.synthesise(text, voice)
        sound, spoken, length = _sound(samples, spoken, rate)
        if cursor + length > 0:
            _mix(timeline, sound, cursor)
            phonemes += [Phoneme(p.symbol, p.start + cursor, p.end + cursor) for p in spoken]
            words.append(text)
        sentences_left -= 1
        long_pause_after -= 1
        cursor += length + (rng.uniform(0.45, 1.2) if long_pause_after == 0 else rng.uniform(0.08, 0.35))
    return Utterance(
        samples=timeline,
        mouth=mouth_track(phonemes, num_frames, FPS, effort),
        gender=gender,
        voice=name,
        text=" ".join(words),
        mode=mode,
    )


def _cast(engines: Engines, rng: np.random.Generator, split: Split, gender: int):
    """Choose who speaks: an engine, its voice and the voice's name."""
    name = str(rng.choice(voices(split)[gender]))
    pitch, melody, speed = int(rng.integers(34, 72)), int(rng.integers(30, 80)), int(rng.integers(120, 205))
    shift = rng.uniform(0.93, 1.14) if gender == WOMAN else rng.uniform(0.70, 0.82)
    speaker = Speaker(shift=shift, tempo=rng.uniform(0.8, 1.2), seed=int(rng.integers(1 << 31)))
    if rng.random() < engines.natural_share and split == "train":
        return engines.natural, speaker, f"natural+{shift:.2f}"
    return engines.espeak, Voice(name=name, pitch=pitch, range=melody, speed=speed), name


def _sound(samples: np.ndarray, phonemes: list[Phoneme], rate: float) -> tuple[np.ndarray, list[Phoneme], float]:
    """Cut the pauses at both ends, bring to 16 kHz and to a common loudness; also the length in seconds."""
    import soxr

    spoken = [p for p in phonemes if not is_pause(p.symbol)]
    start, stop = (max(0.0, spoken[0].start - 0.03), spoken[-1].end + 0.03) if spoken else (0.0, 0.0)
    phonemes = [Phoneme(p.symbol, max(0.0, p.start - start), p.end - start) for p in phonemes if p.end > start]
    length = stop - start
    sound = soxr.resample(samples[int(start * rate) : int(stop * rate)], rate, SAMPLE_RATE)
    level = float(np.sqrt(np.mean(np.square(sound)))) if len(sound) else 0.0
    if level > 1e-4:
        sound = np.clip(sound * (LOUDNESS / level), -0.99, 0.99)
    return sound, phonemes, length


def _mix(timeline: np.ndarray, sound: np.ndarray, start_s: float) -> None:
    """Add ``sound`` to ``timeline`` at ``start_s`` seconds (may be negative), in place."""
    start = round(start_s * SAMPLE_RATE)
    skip = max(0, -start)
    piece = sound[skip : skip + max(0, len(timeline) - max(0, start))]
    timeline[max(0, start) : max(0, start) + len(piece)] += piece


@dataclass(frozen=True)
class SpeechBank:
    """Utterances of one split: ``samples`` (N, S) int16, ``mouth`` (N, F, 2) float16, ``gender`` (N,), texts, modes."""

    samples: np.ndarray
    mouth: np.ndarray
    gender: np.ndarray
    text: np.ndarray
    voice: np.ndarray
    mode: np.ndarray
    split: str
    seed: int

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def num_frames(self) -> int:
        """Video frames every utterance lasts."""
        return self.mouth.shape[1]

    @classmethod
    def build(
        cls,
        num_utterances: int,
        *,
        seed: int,
        split: Split,
        num_frames: int = 97,
        natural_share: float = 0.0,
        workers: int | None = None,
        start_method: str = "fork",
    ) -> SpeechBank:
        """Speak ``num_utterances`` in ``workers`` processes (default: one per core).

        ``natural_share`` of a training bank is spoken by hibari-tts, which must then be installed.
        """
        tasks = [
            (seed, split, start, min(start + BLOCK, num_utterances), num_frames, natural_share)
            for start in range(0, num_utterances, BLOCK)
        ]
        workers = min(workers or os.cpu_count() or 1, len(tasks))
        # One block per process: espeak's state at the start of a block must not depend on what came before.
        with multiprocessing.get_context(start_method).Pool(workers, maxtasksperchild=1) as pool:
            blocks = pool.starmap(_speak_block, tasks, chunksize=1)
        columns = [np.concatenate(column) for column in zip(*blocks, strict=True)]
        return cls(*columns, split=split, seed=seed)

    def save(self, path: str | Path) -> None:
        """Write one ``.npz``."""
        np.savez(path, **vars(self))

    @classmethod
    def load(cls, path: str | Path) -> SpeechBank:
        """Read what ``save`` wrote."""
        with np.load(path) as data:
            fields = {name: data[name] for name in data.files}
        return cls(**{**fields, "split": str(fields["split"]), "seed": int(fields["seed"])})

    def of_gender(self, gender: int) -> np.ndarray:
        """Indices of the utterances spoken by a woman (0) or a man (1); silent ones belong to both."""
        return np.flatnonzero((self.gender == gender) | (self.mode == "silent"))


def _speak_block(
    seed: int, split: Split, start: int, stop: int, num_frames: int, natural_share: float
) -> tuple[np.ndarray, ...]:
    espeak = Espeak(seed=seed * 1_000_003 + start + (split == "heldout"))
    engines = Engines(espeak=espeak, natural=Natural() if natural_share else None, natural_share=natural_share)
    said = [speak(engines, seed, split, index, num_frames) for index in range(start, stop)]
    return (
        np.stack([(u.samples * 32767.0).round().astype(np.int16) for u in said]),
        np.stack([u.mouth.astype(np.float16) for u in said]),
        np.array([u.gender for u in said], np.int64),
        np.array([u.text for u in said]),
        np.array([u.voice for u in said]),
        np.array([u.mode for u in said]),
    )
