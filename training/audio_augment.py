"""Random changes to speech that leave the words alone: other rooms, microphones, throats and backgrounds.

Works on the device the sound is on, a whole batch at once; every example draws its own amounts from the generator.
Knows signals only.

Shape suffixes: B examples, S samples at 16 kHz, F frequency bins, T spectrogram frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from humo_rt.config import SAMPLE_RATE

_FFT, _HOP = 512, 128
_ROOM_S = 0.35


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Probabilities and ranges; decibels are drawn uniformly."""

    filter_share: float = 0.6
    filter_db: float = 12.0
    throat_share: float = 0.4
    throat_range: float = 0.18
    muffle_share: float = 0.2
    room_share: float = 0.3
    noise_share: float = 0.6
    noise_snr_db: tuple[float, float] = (3.0, 35.0)
    babble_share: float = 0.2
    babble_snr_db: tuple[float, float] = (6.0, 20.0)
    gain_db: tuple[float, float] = (-18.0, 6.0)


def augment(sound_BS: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Return float32 sound (B, S) with every change applied to its share of the examples."""
    sound = _reshape_spectrum(sound_BS.float(), config, generator)
    sound = _blend(sound, add_room(sound, generator), config.room_share, generator)
    babble = at_snr(sound, sound.roll(1, dims=0), _between(*config.babble_snr_db, len(sound), generator))
    sound = _blend(sound, sound + babble, config.babble_share, generator)
    noise = at_snr(sound, coloured_noise(sound.shape, generator), _between(*config.noise_snr_db, len(sound), generator))
    sound = _blend(sound, sound + noise, config.noise_share, generator)
    gain = 10 ** (_between(*config.gain_db, len(sound), generator) / 20)
    return (sound * gain[:, None]).clamp(-1.0, 1.0)


def add_room(sound_BS: Tensor, generator: torch.Generator) -> Tensor:
    """Convolve with a decaying noise behind a direct path: a room with 0.05 to 0.25 s to a tenth of the level."""
    count, length = sound_BS.shape
    taps = round(_ROOM_S * SAMPLE_RATE)
    time = torch.arange(taps, device=sound_BS.device) / SAMPLE_RATE
    decay = _between(0.05, 0.25, count, generator)[:, None]
    response = torch.randn((count, taps), generator=generator, device=sound_BS.device) * 10 ** (-time / decay)
    response = response * (_between(0.2, 0.7, count, generator)[:, None] / response.norm(dim=1, keepdim=True))
    response[:, 0] = 1.0
    size = 1 << (length + taps - 1).bit_length()
    return torch.fft.irfft(torch.fft.rfft(sound_BS, size) * torch.fft.rfft(response, size), size)[:, :length]


def coloured_noise(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Noise whose level falls by 0 to 9 dB an octave, unit power: (B, S)."""
    count, length = shape
    white = torch.randn((count, length), generator=generator, device=generator.device)
    spectrum = torch.fft.rfft(white)
    slope = _between(0.0, 1.5, count, generator)[:, None]
    octaves = torch.arange(1, spectrum.shape[1] + 1, device=white.device).log()
    noise = torch.fft.irfft(spectrum * torch.exp(-slope * octaves), length)
    return noise / noise.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-8)


def at_snr(sound_BS: Tensor, other_BS: Tensor, snr_db_B: Tensor) -> Tensor:
    """Scale ``other`` so that ``sound`` is ``snr_db`` louder; silence stays silent."""
    power, other = (x.square().mean(dim=1) for x in (sound_BS, other_BS))
    scale = (power / other.clamp(min=1e-10)).sqrt() * 10 ** (-snr_db_B / 20)
    return other_BS * scale[:, None]


def _reshape_spectrum(sound_BS: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Filter with a random smooth curve, stretch the formants, cut the treble: one trip through the spectrum."""
    count, length = sound_BS.shape
    window = torch.hann_window(_FFT, device=sound_BS.device)
    spectrum = torch.stft(sound_BS, _FFT, _HOP, window=window, return_complex=True)
    position = torch.linspace(0.0, 1.0, spectrum.shape[1], device=sound_BS.device)
    on = _share(config.throat_share, count, generator)
    ratio = 1.0 + torch.where(on, _between(-config.throat_range, config.throat_range, count, generator), 0.0)
    spectrum = _stretch(spectrum, ratio)
    # Two random half waves over the square root of frequency: the smooth tilt of a microphone or a small speaker.
    on = _share(config.filter_share, count, generator)
    depth = torch.where(on, _between(0.0, config.filter_db, count, generator), 0.0)
    waves = _between(0.5, 3.0, count, generator)[:, None] * position.sqrt()
    curve_db = depth[:, None] * torch.cos(2 * math.pi * (waves + _between(0.0, 1.0, count, generator)[:, None]))
    on = _share(config.muffle_share, count, generator)
    edge = torch.where(on, _between(0.35, 0.9, count, generator), 2.0)[:, None]
    gain = 10 ** (curve_db / 20) * torch.sigmoid((edge - position) * 40.0)
    return torch.istft(spectrum * gain[..., None], _FFT, _HOP, window=window, length=length)


def _stretch(spectrum_BFT: Tensor, ratio_B: Tensor) -> Tensor:
    """Move every bin's magnitude to ``ratio`` times its frequency and keep the phases: formants move, pitch hardly."""
    bins = spectrum_BFT.shape[1]
    source = torch.arange(bins, device=ratio_B.device) / ratio_B[:, None]
    lower = source.floor().clamp(max=bins - 2).long()
    part = (source - lower).clamp(0.0, 1.0)[..., None]
    magnitude = spectrum_BFT.abs()
    index = lower[..., None].expand_as(magnitude)
    moved = magnitude.gather(1, index) * (1 - part) + magnitude.gather(1, index + 1) * part
    moved = moved * (source < bins)[..., None]
    return spectrum_BFT * (moved / magnitude.clamp(min=1e-8))


def _blend(sound_BS: Tensor, changed_BS: Tensor, share: float, generator: torch.Generator) -> Tensor:
    return torch.where(_share(share, len(sound_BS), generator)[:, None], changed_BS, sound_BS)


def _share(share: float, count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator, device=generator.device) < share


def _between(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator, device=generator.device)
