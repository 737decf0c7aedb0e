"""From phoneme events to what the lips do.

Knows espeak-ng's phoneme mnemonics by class and how far the mouth opens and spreads for each. Makes no sound.

A mouth track has two columns: openness in 0..1 (0 = lips touch) and width in -1..1 (-1 = rounded, 1 = spread).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

RATE = 500  # samples per second of the fine track that is smoothed before it is read at the video's rate
OPEN_SIGMA_S = 0.026
WIDTH_SIGMA_S = 0.045
CLOSE_SIGMA_S = 0.014
MIN_CLOSURE_S = 0.045
REST_OPENNESS = 0.03  # anything below counts as closed lips


class Viseme(NamedTuple):
    """A lip target: ``openness`` 0..1, ``width`` -1..1, and ``closes`` when the lips must really meet."""

    openness: float
    width: float
    closes: bool = False


@dataclass(frozen=True)
class Phoneme:
    """One phoneme event: espeak's mnemonic and its time in seconds."""

    symbol: str
    start: float
    end: float


SILENCE = Viseme(0.0, 0.0)
CLOSED = Viseme(0.0, 0.0, closes=True)

# Longest prefix wins. Diphthongs have two targets, each held for half of the sound.
_VISEMES: dict[str, tuple[Viseme, ...]] = {
    "aI": (Viseme(0.98, 0.15), Viseme(0.5, 0.5)),
    "aU": (Viseme(0.98, 0.05), Viseme(0.45, -0.7)),
    "OI": (Viseme(0.72, -0.6), Viseme(0.45, 0.45)),
    "eI": (Viseme(0.66, 0.4), Viseme(0.42, 0.6)),
    "oU": (Viseme(0.66, -0.5), Viseme(0.36, -0.85)),
    "e@": (Viseme(0.68, 0.3),),
    "i@": (Viseme(0.42, 0.6), Viseme(0.5, 0.0)),
    "U@": (Viseme(0.42, -0.6), Viseme(0.5, -0.1)),
    "a": (Viseme(0.96, 0.25),),
    "A": (Viseme(1.0, 0.0),),
    "V": (Viseme(0.8, 0.1),),
    "0": (Viseme(0.88, -0.3),),
    "O": (Viseme(0.8, -0.6),),
    "o": (Viseme(0.64, -0.6),),
    "E": (Viseme(0.7, 0.4),),
    "e": (Viseme(0.6, 0.45),),
    "3": (Viseme(0.55, -0.2),),
    "@": (Viseme(0.5, 0.0),),
    "I": (Viseme(0.46, 0.5),),
    "i": (Viseme(0.4, 0.8),),
    "U": (Viseme(0.44, -0.6),),
    "u": (Viseme(0.34, -0.9),),
    "Y": (Viseme(0.4, -0.7),),
    "W": (Viseme(0.45, -0.7),),
    "&": (Viseme(0.7, 0.2),),
    "p": (CLOSED,),
    "b": (CLOSED,),
    "m": (CLOSED,),
    "f": (Viseme(0.07, 0.1),),
    "v": (Viseme(0.07, 0.1),),
    "w": (Viseme(0.16, -1.0),),
    "r": (Viseme(0.3, -0.5),),
    "R": (Viseme(0.3, -0.3),),
    "tS": (Viseme(0.26, -0.6),),
    "dZ": (Viseme(0.26, -0.6),),
    "S": (Viseme(0.26, -0.6),),
    "Z": (Viseme(0.26, -0.6),),
    "s": (Viseme(0.17, 0.4),),
    "z": (Viseme(0.17, 0.4),),
    "t": (Viseme(0.2, 0.15),),
    "d": (Viseme(0.2, 0.15),),
    "n": (Viseme(0.22, 0.1),),
    "l": (Viseme(0.34, 0.1),),
    "L": (Viseme(0.34, 0.1),),
    "T": (Viseme(0.22, 0.1),),
    "D": (Viseme(0.22, 0.1),),
    "k": (Viseme(0.32, 0.0),),
    "g": (Viseme(0.32, 0.0),),
    "N": (Viseme(0.32, 0.0),),
    "x": (Viseme(0.35, 0.0),),
    "C": (Viseme(0.3, 0.3),),
    "j": (Viseme(0.3, 0.5),),
}
_MARKS = "',%=|*"


def visemes(symbol: str) -> tuple[Viseme, ...] | None:
    """The lip targets of an espeak mnemonic, ``None`` when the symbol has none of its own.

    ``;`` (palatalised), ``?`` (glottal stop) and ``h`` borrow their neighbours' shape, and so does a symbol nobody
    listed: it is a sound, so it must not close the mouth. Only ``_...`` is a pause.
    """
    if symbol.startswith("_"):
        return (SILENCE,)
    bare = symbol.lstrip(_MARKS)
    for length in range(min(2, len(bare)), 0, -1):
        if found := _VISEMES.get(bare[:length]):
            return found
    return None


def is_pause(symbol: str) -> bool:
    """Whether the mnemonic is espeak's pause."""
    return symbol.startswith("_")


def closures(phonemes: list[Phoneme]) -> list[tuple[float, float]]:
    """Start and end in seconds of every sound made with closed lips (p, b, m)."""
    return [(p.start, p.end) for p in phonemes if (found := visemes(p.symbol)) and found[0].closes]


def mouth_track(phonemes: list[Phoneme], num_frames: int, fps: int = 25, effort: float = 1.0) -> np.ndarray:
    """Draw the lips' movement: ``(num_frames, 2)`` float32 of openness and width, read at the middle of each frame.

    ``phonemes`` are in order; time that none covers is silence. ``effort`` scales the openness of the whole track.
    """
    num_fine = int(np.ceil(num_frames / fps * RATE)) + 1
    open_S, width_S, weight_S, shut_S = (np.zeros(num_fine) for _ in range(4))
    for phoneme, targets in zip(phonemes, _resolve(phonemes), strict=True):
        edges = np.linspace(phoneme.start, phoneme.end, len(targets) + 1)
        for target, start, end in zip(targets, edges[:-1], edges[1:], strict=True):
            span = slice(max(0, round(start * RATE)), max(0, round(end * RATE)))
            open_S[span], width_S[span] = target.openness, target.width
            weight_S[span] = 0.0 if target is SILENCE else 1.0
    for start, end in closures(phonemes):
        middle, half = (start + end) / 2, max(end - start, MIN_CLOSURE_S) / 2
        shut_S[max(0, round((middle - half) * RATE)) : max(0, round((middle + half) * RATE))] = 1.0

    # The shape of the lips persists through a short pause, so width is a weighted mean over sounding time only.
    width_S = _smooth(width_S * weight_S, WIDTH_SIGMA_S) / np.maximum(_smooth(weight_S, WIDTH_SIGMA_S), 0.15)
    open_S = _smooth(open_S, OPEN_SIGMA_S) * (1.0 - _smooth(shut_S, CLOSE_SIGMA_S))
    centres = np.minimum(((np.arange(num_frames) + 0.5) / fps * RATE).round().astype(int), num_fine - 1)
    openness_F = np.clip(open_S[centres] * effort * 1.08, 0.0, 1.0)
    for start, end in closures(phonemes):
        # A closure can fall between two frames; the eye expects to see it, so the nearest frame shows it.
        frame = int((start + end) / 2 * fps)
        if 0 <= frame < num_frames:
            openness_F[frame] = min(openness_F[frame], 0.02)
    openness_F = np.where(openness_F < REST_OPENNESS, 0.0, (openness_F - REST_OPENNESS) / (1.0 - REST_OPENNESS))
    return np.stack([openness_F, np.clip(width_S[centres], -1.0, 1.0)], axis=1).astype(np.float32)


def _resolve(phonemes: list[Phoneme]) -> list[tuple[Viseme, ...]]:
    """Give symbols without a shape of their own the one of the sound after them, else before them."""
    own = [visemes(p.symbol) for p in phonemes]
    resolved: list[tuple[Viseme, ...]] = []
    for index, found in enumerate(own):
        if found is None:
            after = own[index + 1] if index + 1 < len(own) else None
            before = resolved[-1] if resolved else None
            borrowed = next((v for v in (after, before) if v and v[0] is not SILENCE), (Viseme(0.35, 0.0),))
            found = (Viseme(max(0.2, borrowed[0].openness * 0.9), borrowed[0].width),)
        resolved.append(found)
    return resolved


def _smooth(values_S: np.ndarray, sigma_s: float) -> np.ndarray:
    """Convolve with a Gaussian of ``sigma_s`` seconds, cut at three sigma so that silence becomes exactly zero."""
    reach = round(3 * sigma_s * RATE)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (sigma_s * RATE)) ** 2)
    padded = np.pad(values_S, reach, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")
