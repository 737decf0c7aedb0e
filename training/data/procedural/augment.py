"""Colour the sound of clean synthesis as rooms and microphones would, leaving its timing alone.

Gain, tilt and bands of an equaliser, a short room, a little noise. Knows nothing about speech.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from training.data.procedural.seeds import stream

SAMPLE_RATE = 16_000
_NOISE_SAMPLES = 1 << 19
_ROOM_SAMPLES = 3200


def augment(audio_BS: Tensor, keys: Sequence[tuple[int | str, ...]]) -> Tensor:
    """Augment each clip as its key says: the same key gives the same sound. (B, S) float32 in and out.

    The direct sound arrives first and loudest, so the mouth stays in time; silence gets noise only.
    """
    num_samples = audio_BS.shape[1]
    size = 1 << int(np.ceil(np.log2(num_samples + _ROOM_SAMPLES)))
    drawn = [_draw(stream(*key), size) for key in keys]
    response_BK, room_BR, gain_B, noise_B, offsets = (list(column) for column in zip(*drawn, strict=True))
    device = audio_BS.device
    spectrum_BK = torch.fft.rfft(audio_BS, size) * torch.from_numpy(np.stack(response_BK)).to(device)
    spectrum_BK = spectrum_BK * torch.fft.rfft(torch.from_numpy(np.stack(room_BR)).to(device), size)
    coloured_BS = torch.fft.irfft(spectrum_BK, size)[:, :num_samples]
    noise_BS = torch.stack([_noise(device)[start : start + num_samples] for start in offsets])
    mixed_BS = coloured_BS + noise_BS * torch.tensor(noise_B, device=device)[:, None]
    return (mixed_BS * torch.tensor(gain_B, device=device)[:, None]).clamp(-1.0, 1.0)


def _draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, float, float, int]:
    """One clip's frequency response (size / 2 + 1), room impulse, gain, noise level and place in the noise."""
    octaves = np.log2(np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 40.0) / 1000.0)
    points = np.sort(rng.uniform(-4.5, 3.0, 5))
    response_db = np.interp(octaves, points, rng.uniform(-6.0, 6.0, 5)) * (rng.random() < 0.6)
    room = np.zeros(_ROOM_SAMPLES, np.float32)
    room[0] = 1.0
    if rng.random() < 0.45:
        decay = rng.uniform(0.02, 0.06) * SAMPLE_RATE
        tail = rng.standard_normal(_ROOM_SAMPLES) * np.exp(-np.arange(_ROOM_SAMPLES) / decay)
        tail[: int(0.002 * SAMPLE_RATE)] = 0.0
        room += (tail * rng.uniform(0.05, 0.35) / np.sqrt(np.square(tail).sum())).astype(np.float32)
    gain = 10 ** (rng.uniform(-10.0, 6.0) / 20)
    noise = 10 ** (rng.uniform(-66.0, -36.0) / 20) * (rng.random() < 0.6)
    start = int(rng.integers(_NOISE_SAMPLES // 2))
    return (10 ** (response_db / 20)).astype(np.float32), room, gain, float(noise), start


_noises: dict[torch.device, Tensor] = {}


def _noise(device: torch.device) -> Tensor:
    """Half white, half pinkish noise of unit power, drawn once on the CPU so that every device has the same."""
    if device not in _noises:
        white = stream("noise").standard_normal(_NOISE_SAMPLES)
        spectrum = np.fft.rfft(white)
        pink = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 200)))
        _noises[device] = torch.from_numpy((0.5 * white + 0.5 * pink / pink.std()).astype(np.float32)).to(device)
    return _noises[device]
