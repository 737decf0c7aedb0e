"""Sound to audio features: Whisper's hidden states as five bands at 25 Hz, and one window of them per latent frame.

Knows Whisper's chunking, the pooling into bands and the windows. Does not read files (``humo_rt.media`` does), build
the encoder or load its weights.

Shape suffixes: B batch, S samples at 16 kHz, M mel bins, F mel frames (100 Hz), L hidden states, T audio frames
(25 Hz), N bands (5), W window (8), C channels.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from humo_rt.config import FPS, SAMPLE_RATE

CHUNK_SAMPLES = 30 * SAMPLE_RATE
HOP = 160
FFT = 400
STATE_RATE = 50
WINDOW = 8
# One video frame of sound, two Whisper states.
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS


def num_audio_frames(num_samples: int) -> int:
    """Audio frames (25 Hz) that ``num_samples`` at 16 kHz give.

    The published models truncate ``n / 50.0 * 25`` in double arithmetic, which loses one frame for some lengths
    (58 states give 28 frames).
    """
    return _frames_of_states(2 * (num_samples // SAMPLES_PER_FRAME))


def pool_bands(hidden_SLC: Tensor) -> Tensor:
    """Average the hidden states in four equal groups and keep the last state alone.

    ``hidden_SLC``: (..., states in time, layers + 1, C), layers a multiple of 4. Returns (..., states in time, 5, C)
    in float32.
    """
    layers = hidden_SLC.shape[-2] - 1
    if layers < 4 or layers % 4:
        raise ValueError(f"{layers} audio encoder layers do not form four bands: use a multiple of 4")
    grouped = hidden_SLC[..., :-1, :].float().unflatten(-2, (4, layers // 4)).mean(dim=-2)
    return torch.cat([grouped, hidden_SLC[..., -1:, :].float()], dim=-2)


def resample_to_25hz(bands_SNC: Tensor) -> Tensor:
    """Interpolate bands (..., states at 50 Hz, 5, C) linearly to 25 Hz, first and last state kept: (..., T, 5, C)."""
    *lead, states, bands, channels = bands_SNC.shape
    frames = _frames_of_states(states)
    if frames < 1:
        raise ValueError(f"{states} audio states are less than one video frame: give at least 0.04 s of sound")
    series = bands_SNC.float().reshape(-1, states, bands * channels).transpose(1, 2)
    # torch computes the positions in float32, as the published models do: double positions differ by up to 7e-5.
    resampled = nn.functional.interpolate(series, size=frames, mode="linear", align_corners=True)
    return resampled.transpose(1, 2).reshape(*lead, frames, bands, channels)


def window_audio(embeds_TNC: Tensor, num_latent_frames: int, start: int = 0) -> Tensor:
    """Cut eight audio frames per latent frame.

    Latent frame 0 takes three zero frames, then audio frames ``start - 2 .. start + 2``; latent frame k >= 1 takes
    ``start + 4k - 5 .. start + 4k + 2``. Frames outside the audio are zeros.
    ``embeds_TNC``: (..., T, 5, C). Returns (..., num_latent_frames, 8, 5, C).
    """
    *lead, frames, bands, channels = embeds_TNC.shape
    index = window_index(num_latent_frames, frames, start).to(embeds_TNC.device)
    # A zero frame behind the audio answers to index -1, so that one gather does all.
    padded = torch.cat([embeds_TNC, embeds_TNC.new_zeros((*lead, 1, bands, channels))], dim=-3)
    windows = padded.index_select(len(lead), index.flatten() % (frames + 1))
    return windows.unflatten(-3, (num_latent_frames, WINDOW))


def window_index(num_latent_frames: int, num_audio_frames: int, start: int = 0) -> Tensor:
    """The audio frame behind every window slot, -1 for zeros: (num_latent_frames, 8) int64."""
    first = start - 5 + 4 * torch.arange(num_latent_frames)[:, None]
    index = first + torch.arange(WINDOW)
    index[0, :3] = -1
    return torch.where((index < 0) | (index >= num_audio_frames), -1, index)


def append_reference_frames(windows_TWNC: Tensor, num_references: int) -> Tensor:
    """Append one zero window per reference image: references come last and never hear anything."""
    shape = (*windows_TWNC.shape[:-4], num_references, *windows_TWNC.shape[-3:])
    return torch.cat([windows_TWNC, windows_TWNC.new_zeros(shape)], dim=-4)


class AudioConditioner:
    """Whisper's encoder as a feature extractor.

    ``encoder``: a transformers ``WhisperEncoder`` whose number of layers is a multiple of 4. It decides device and
    precision; the features come back in float32 on its device.
    """

    def __init__(self, encoder: nn.Module, num_mel_bins: int | None = None) -> None:
        self.encoder = encoder
        self.num_mel_bins = num_mel_bins or encoder.config.num_mel_bins
        self._extractor: Any = None

    @property
    def _weight(self) -> Tensor:
        return next(self.encoder.parameters())

    @torch.no_grad()
    def embed(self, samples_S: np.ndarray | Tensor) -> Tensor:
        """Features of one sound of any length.

        ``samples_S``: float mono at 16 kHz. Returns (T, 5, C) with T = ``num_audio_frames(S)``. ``ValueError`` when
        the sound is not one channel or shorter than one video frame.
        """
        samples = np.asarray(torch.as_tensor(samples_S).detach().cpu(), dtype=np.float32)
        if samples.ndim != 1:
            raise ValueError(f"audio of shape {samples.shape} is not one channel: mix it to shape (samples,)")
        _require_one_frame(len(samples))
        chunks = [samples[begin : begin + CHUNK_SAMPLES] for begin in range(0, len(samples), CHUNK_SAMPLES)]
        # Chunk by chunk: 33 states of 30 s of whisper-large take 250 MB, their bands 38 MB.
        bands = [self._bands(self._extract_mel(chunk)) for chunk in chunks]
        return _cut_and_resample(torch.cat(bands, dim=1), len(samples))[0]

    @torch.no_grad()
    def embed_batch(self, samples_BS: Tensor) -> Tensor:
        """Features of sounds of one common length, computed wholly on the encoder's device, for training.

        ``samples_BS``: float at 16 kHz. Returns (B, T, 5, C). Equal to ``embed`` of every row within 1e-4 of the mel.
        """
        _require_one_frame(samples_BS.shape[1])
        samples = samples_BS.to(self._weight.device, torch.float32)
        bands = [self._bands(log_mel(chunk, self.num_mel_bins)) for chunk in samples.split(CHUNK_SAMPLES, dim=1)]
        return _cut_and_resample(torch.cat(bands, dim=1), samples.shape[1])

    def _extract_mel(self, samples_S: np.ndarray) -> Tensor:
        if self._extractor is None:
            from transformers import WhisperFeatureExtractor

            self._extractor = WhisperFeatureExtractor(feature_size=self.num_mel_bins)
        return self._extractor(samples_S, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features

    def _bands(self, mel_BMF: Tensor) -> Tensor:
        output = self.encoder(mel_BMF.to(self._weight), output_hidden_states=True)
        return pool_bands(torch.stack(output.hidden_states, dim=2))


def log_mel(samples_BS: Tensor, num_mel_bins: int) -> Tensor:
    """Whisper's log-mel spectrogram of at most 30 s, padded with silence to 30 s: (B, M, 3000) float32.

    Same numbers as transformers' ``WhisperFeatureExtractor`` within 1e-4, without leaving the device.
    """
    num_samples = samples_BS.shape[1]
    if num_samples > CHUNK_SAMPLES:
        raise ValueError(f"{num_samples} samples exceed one chunk: give at most {CHUNK_SAMPLES} (30 s)")
    # Only frames that touch sound need the Fourier transform; the silence behind them is a constant.
    computed = min(CHUNK_SAMPLES, -(-(num_samples + FFT) // HOP) * HOP)
    padded = nn.functional.pad(samples_BS.float(), (0, computed - num_samples))
    window = torch.hann_window(FFT, device=padded.device)
    spectrum = torch.stft(padded, FFT, HOP, window=window, return_complex=True)[..., :-1]
    filters = torch.from_numpy(_mel_filters(num_mel_bins)).to(padded.device)
    log_BMF = (filters @ spectrum.abs().square()).clamp(min=1e-10).log10()
    silence = log_BMF.new_full((*log_BMF.shape[:2], CHUNK_SAMPLES // HOP - log_BMF.shape[2]), -10.0)
    log_BMF = torch.cat([log_BMF, silence], dim=2)
    floor = log_BMF.amax(dim=(1, 2), keepdim=True) - 8.0
    return (torch.maximum(log_BMF, floor) + 4.0) / 4.0


@cache
def _mel_filters(num_mel_bins: int) -> np.ndarray:
    """(M, 201) float32, Slaney's mel scale and area normalisation."""
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(
        num_frequency_bins=1 + FFT // 2,
        num_mel_filters=num_mel_bins,
        min_frequency=0.0,
        max_frequency=SAMPLE_RATE / 2,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return np.ascontiguousarray(filters.T, dtype=np.float32)


def _frames_of_states(states: int) -> int:
    return int(states / float(STATE_RATE) * FPS)


def _cut_and_resample(bands_BSNC: Tensor, num_samples: int) -> Tensor:
    return resample_to_25hz(bands_BSNC[:, : 2 * (num_samples // SAMPLES_PER_FRAME)])


def _require_one_frame(num_samples: int) -> None:
    if num_samples < SAMPLES_PER_FRAME:
        raise ValueError(f"{num_samples} samples of audio are less than one video frame: give {SAMPLES_PER_FRAME}")
