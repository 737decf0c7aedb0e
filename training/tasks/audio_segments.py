"""Half-minute training segments, composed on the device from short stretches of speech.

Whisper always hears 30 s. A segment is either full of utterances of several voices, or begins with some and ends in
padding silence; every utterance changes its speed, and with it its pitch. The mouth track follows where there is one.

Shape suffixes: N rows of the bank, R samples of a row, F mouth frames of a row (25 Hz), B segments, P places in a
segment, S samples of a segment, T encoder states (50 Hz).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from humo_rt.conditions.audio import CHUNK_SAMPLES
from humo_rt.config import FPS, SAMPLE_RATE
from training.audio_augment import AugmentConfig, augment

STATE_SAMPLES = 320
FRAME_SAMPLES = SAMPLE_RATE // FPS
_STRIDE_S = 1.0
_SHORTEST_S = 0.5


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """``places`` utterances fill a segment; ``recorded_share`` of them come from recordings, which have no mouth."""

    places: int = 8
    packed_share: float = 0.5
    recorded_share: float = 0.3
    speed: tuple[float, float] = (0.8, 1.25)
    place_gain_db: float = 8.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True, kw_only=True)
class SpeechRows:
    """Stretches of speech of equal length on one device.

    ``samples_NR`` int16; ``mouth_NF2`` openness 0..1 and width -1..1; the first ``num_spoken`` rows are synthesised
    and have a mouth, the others are recorded and have zeros there.
    """

    samples_NR: Tensor
    mouth_NF2: Tensor
    num_spoken: int


@dataclass(frozen=True, kw_only=True)
class Segments:
    """``sound_BS`` 30 s each; ``heard_BT`` marks what is not padding; ``mouth_BT2`` is known where ``seen_BT``."""

    sound_BS: Tensor
    heard_BT: Tensor
    mouth_BT2: Tensor
    seen_BT: Tensor


def speech_rows(
    samples_NR: np.ndarray, mouth_NF2: np.ndarray, recordings: list[Path], device: torch.device
) -> SpeechRows:
    """Put synthesised speech (int16, with its mouth) and recordings, cut into overlapping rows, on the device."""
    from humo_rt.media import read_audio

    length = samples_NR.shape[1]
    cut = [row for path in recordings for row in _cut(np.asarray(read_audio(path)), length)]
    samples = torch.from_numpy(np.concatenate([samples_NR, *(row[None] for row in cut)]))
    mouth = torch.from_numpy(mouth_NF2.astype(np.float32))
    mouth = torch.cat([mouth, mouth.new_zeros(len(cut), *mouth.shape[1:])])
    return SpeechRows(samples_NR=samples.to(device), mouth_NF2=mouth.to(device), num_spoken=len(samples_NR))


def compose(rows: SpeechRows, config: SegmentConfig, count: int, generator: torch.Generator) -> Segments:
    """Draw ``count`` segments; everything random comes from ``generator``, which lives on the rows' device."""
    device, shape = rows.samples_NR.device, (count, config.places)
    row_BP = _draw_rows(rows, config, shape, generator)
    low, high = config.speed
    speed_BP = low * (high / low) ** torch.rand(shape, generator=generator, device=device)
    place = -(-CHUNK_SAMPLES // config.places)
    room_BP = (rows.samples_NR.shape[1] - place * speed_BP).clamp(min=0)
    start_BP = torch.rand(shape, generator=generator, device=device) * room_BP

    within = torch.arange(place, device=device)
    sound_BPS = _read(rows.samples_NR, row_BP, start_BP[..., None] + speed_BP[..., None] * within) / 32768.0
    gain_db = config.place_gain_db * (2 * torch.rand((*shape, 1), generator=generator, device=device) - 1)
    sound_BS = (sound_BPS * 10 ** (gain_db / 20)).flatten(1)[:, :CHUNK_SAMPLES]

    # How much of each segment sounds: all of it, or the beginning.
    packed_B = torch.rand(count, generator=generator, device=device) < config.packed_share
    shortest = _SHORTEST_S * SAMPLE_RATE
    part_B = shortest + (CHUNK_SAMPLES - shortest) * torch.rand(count, generator=generator, device=device)
    end_B = torch.where(packed_B, float(CHUNK_SAMPLES), part_B)[:, None]
    sounding_BS = torch.arange(CHUNK_SAMPLES, device=device) < end_B
    sound_BS = augment(sound_BS * sounding_BS, config.augment, generator) * sounding_BS

    moment_T = torch.arange(CHUNK_SAMPLES // STATE_SAMPLES, device=device) * STATE_SAMPLES
    place_T = moment_T // place
    mouth_BT2 = _read_mouth(rows, row_BP[:, place_T], start_BP[:, place_T] + speed_BP[:, place_T] * (moment_T % place))
    heard_BT = moment_T < end_B
    return Segments(
        sound_BS=sound_BS,
        heard_BT=heard_BT,
        mouth_BT2=mouth_BT2,
        seen_BT=heard_BT & (row_BP[:, place_T] < rows.num_spoken),
    )


def _draw_rows(rows: SpeechRows, config: SegmentConfig, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    device, spoken, total = rows.samples_NR.device, rows.num_spoken, len(rows.samples_NR)
    which = torch.randint(1 << 30, shape, generator=generator, device=device)
    recorded = torch.rand(shape, generator=generator, device=device) < config.recorded_share
    if spoken == total:
        return which % spoken
    return torch.where(recorded, spoken + which % (total - spoken), which % spoken)


def _read(samples_NR: Tensor, row_BP: Tensor, position_BPS: Tensor) -> Tensor:
    """Samples at fractional positions, linearly interpolated; zero behind the end of the row."""
    length = samples_NR.shape[1]
    lower = position_BPS.floor().clamp(max=length - 2).long()
    part = position_BPS - lower
    flat, first = samples_NR.flatten(), row_BP[..., None] * length + lower
    value = torch.lerp(flat[first].float(), flat[first + 1].float(), part)
    return torch.where(position_BPS <= length - 1, value, 0.0)


def _read_mouth(rows: SpeechRows, row_BT: Tensor, sample_BT: Tensor) -> Tensor:
    """The mouth at sample positions of rows; a track's frames stand for the middle of their time."""
    frames = rows.mouth_NF2.shape[1]
    position = (sample_BT / FRAME_SAMPLES - 0.5).clamp(min=0.0)
    lower = position.floor().clamp(max=frames - 2).long()
    part = (position - lower).clamp(max=1.0)[..., None]
    value = torch.lerp(rows.mouth_NF2[row_BT, lower], rows.mouth_NF2[row_BT, lower + 1], part)
    return torch.where((sample_BT < frames * FRAME_SAMPLES)[..., None], value, 0.0)


def _cut(samples: np.ndarray, length: int) -> list[np.ndarray]:
    """Overlapping int16 rows of ``length`` samples, the last one padded with silence."""
    stride = round(_STRIDE_S * SAMPLE_RATE)
    starts = range(0, max(1, len(samples) - length + stride), stride)
    pieces = [samples[start : start + length] for start in starts]
    pieces = [np.pad(piece, (0, length - len(piece))) for piece in pieces]
    return [(piece.clip(-1.0, 1.0) * 32767.0).round().astype(np.int16) for piece in pieces]
