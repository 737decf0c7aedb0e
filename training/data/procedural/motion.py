"""How a person and the camera move: smooth tracks over the frames of one shot.

Everything is a sum of slow waves or a few timed events, so a shot of any length starts and ends naturally. Draws
nothing. Angles are in radians for ``roll``; ``yaw`` and ``pitch`` are turns in -1..1 used as parallax.
"""

from __future__ import annotations

import numpy as np

TRACKS = (
    "head_x", "head_y", "roll", "yaw", "pitch", "zoom", "pan_x", "pan_y",
    "eye_open", "gaze_x", "gaze_y", "brow_raise", "mouth_open", "mouth_spread",
)  # fmt: skip


def move(rng: np.random.Generator, mouth_F2: np.ndarray, fps: int = 25) -> dict[str, np.ndarray]:
    """Tracks for every frame of a shot whose lips follow ``mouth_F2`` (F, 2): openness and width."""
    num_frames = len(mouth_F2)
    seconds = np.arange(num_frames) / fps
    # Speakers nod with their phrases: a slow version of the opening drives the head a little.
    phrase = np.convolve(np.pad(mouth_F2[:, 0], 12, mode="edge"), np.hanning(27)[1:-1] / 13.0, mode="valid")
    phrase = phrase[:num_frames] if len(phrase) >= num_frames else np.pad(phrase, (0, num_frames - len(phrase)))
    liveliness = rng.uniform(0.5, 1.0)
    tracks = {
        "head_x": rng.uniform(-0.06, 0.06) + 0.025 * liveliness * _wave(rng, seconds),
        "head_y": rng.uniform(-0.03, 0.03) + 0.012 * liveliness * _wave(rng, seconds),
        "roll": rng.uniform(-0.07, 0.07) + 0.05 * liveliness * _wave(rng, seconds),
        "yaw": np.clip(rng.uniform(-0.45, 0.45) + 0.3 * liveliness * _wave(rng, seconds), -0.8, 0.8),
        "pitch": rng.uniform(-0.2, 0.2) + 0.18 * liveliness * _wave(rng, seconds) + 0.2 * phrase,
        "zoom": rng.uniform(0.96, 1.04) * (1.0 + rng.uniform(-0.012, 0.012) * (seconds - seconds.mean())),
        "pan_x": rng.uniform(-0.02, 0.02) * _wave(rng, seconds),
        "pan_y": rng.uniform(-0.012, 0.012) * _wave(rng, seconds),
        "eye_open": rng.uniform(0.88, 1.0) * (1.0 - _blinks(rng, seconds)),
        "brow_raise": rng.uniform(-0.3, 0.3) + 0.35 * _wave(rng, seconds) + 0.5 * phrase * rng.uniform(0.0, 1.0),
        "mouth_open": mouth_F2[:, 0],
        "mouth_spread": mouth_F2[:, 1],
    }
    tracks["gaze_x"], tracks["gaze_y"] = _gaze(rng, seconds)
    return tracks


def _wave(rng: np.random.Generator, seconds: np.ndarray) -> np.ndarray:
    """A slow wandering in about -1..1."""
    frequencies = np.array((rng.uniform(0.12, 0.3), rng.uniform(0.35, 0.6), rng.uniform(0.7, 1.1)))
    phases = rng.uniform(0, 2 * np.pi, 3)
    weights = np.array((0.6, 0.3, 0.12))
    return (weights * np.sin(2 * np.pi * frequencies * seconds[:, None] + phases)).sum(axis=1)


def _blinks(rng: np.random.Generator, seconds: np.ndarray) -> np.ndarray:
    """How far the lids are down, 0..1: a blink every two to four seconds lasting a quarter of one."""
    closed = np.zeros_like(seconds)
    moment = rng.uniform(0.2, 3.0)
    while moment < seconds[-1] + 0.2:
        closed = np.maximum(closed, np.clip(1.35 - np.abs(seconds - moment) / 0.075, 0.0, 1.0))
        moment += rng.uniform(1.6, 4.2)
    return closed


def _gaze(rng: np.random.Generator, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the eyes look, -1..1: mostly at the camera, with quick shifts away and back."""
    gaze = np.zeros((len(seconds), 2))
    moment = rng.uniform(0.3, 1.5)
    while moment < seconds[-1]:
        target = rng.uniform(-1, 1, 2) * (1.0, 0.5)
        hold = rng.uniform(0.4, 1.2)
        weight = np.clip((seconds - moment) / 0.08, 0, 1) * np.clip((moment + hold - seconds) / 0.08, 0, 1)
        gaze += weight[:, None] * target
        moment += hold + rng.uniform(0.4, 1.6)
    return gaze[:, 0], gaze[:, 1]
