"""Sound from any file that libsndfile or ffmpeg reads, or from an array.

Knows decoding, mixing and resampling. Knows nothing of Whisper (``humo_rt.conditions.audio`` does).

Shape suffixes: S samples, C channels.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from humo_rt.config import SAMPLE_RATE
from humo_rt.media.container import open_container
from humo_rt.media.promised_length import promised_beyond_end

logger = logging.getLogger(__name__)

MAX_CHANNELS = 32
# Float samples are meant to lie in [-1, 1]; recordings exceed it a little, unscaled integers by far.
MAX_PEAK = 100.0
# Codecs pad and trim by fractions of a packet; a cut file misses more than that.
TOLERATED_LOSS_SECONDS = 0.25


@dataclass(frozen=True, kw_only=True)
class Sound:
    """Decoded sound: ``samples_SC`` float32 (samples, channels), nominally in [-1, 1], at ``sample_rate`` Hz."""

    samples_SC: np.ndarray
    sample_rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples_SC) / self.sample_rate

    def lasting(self, seconds: float) -> Sound:
        """The sound cut, or padded with silence, to ``seconds``."""
        length = round(seconds * self.sample_rate)
        samples_SC = self.samples_SC[:length]
        padded_SC = np.pad(samples_SC, ((0, length - len(samples_SC)), (0, 0)))
        return Sound(samples_SC=padded_SC, sample_rate=self.sample_rate)


AudioSource: TypeAlias = "str | os.PathLike[str] | tuple[Any, int] | Sound"


def mix(sounds: Sequence[Sound]) -> Sound:
    """All sounds at once, as long as the longest, at the highest rate among them; a single one as it is.

    They are added at full strength; a sum that exceeds full scale is turned down to it as a whole. A sound with fewer
    channels than another goes to all of them as mono.
    """
    if len(sounds) == 1:
        return sounds[0]
    rate, channels = max(sound.sample_rate for sound in sounds), max(sound.samples_SC.shape[1] for sound in sounds)
    resampled = [resample(sound.samples_SC, sound.sample_rate, rate) for sound in sounds]
    mixed_SC = np.zeros((max(map(len, resampled)), channels), np.float32)
    for samples_SC in resampled:
        fitting = samples_SC if samples_SC.shape[1] == channels else samples_SC.mean(axis=1, keepdims=True)
        mixed_SC[: len(samples_SC)] += fitting
    return Sound(samples_SC=mixed_SC / max(1.0, float(np.abs(mixed_SC).max())), sample_rate=rate)


def read_audio(source: AudioSource) -> np.ndarray:
    """What the model hears: float32 mono at 16 kHz, (S,).

    Channels are averaged, then resampled with soxr's high quality, S = ceil(samples * 16000 / rate). Errors as
    ``read_sound``.
    """
    sound = read_sound(source)
    mono_S = sound.samples_SC.mean(axis=1, dtype=np.float32)
    return resample(mono_S, sound.sample_rate, SAMPLE_RATE)


def read_sound(source: AudioSource) -> Sound:
    """Decode a file or wrap ``(samples, rate)``, keeping rate and channels.

    Arrays may be (samples,), (samples, channels) or (channels, samples), float in [-1, 1], int16, int32 or uint8.
    ``ValueError`` when the file is missing, not sound, without a sound track, cut short or empty, and when samples are
    not finite.
    """
    if isinstance(source, Sound):
        return source
    if isinstance(source, tuple):
        return _from_array(source)
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"audio of type {type(source).__name__} has no sample rate: give a path or (samples, rate)")
    path = Path(source)
    _require_file(path)
    samples_SC, rate = _decode(path)
    return _checked(samples_SC, rate, f"audio file {str(path)!r}")


def resample(samples_S: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Resample (S,) or (S, C) float32 with soxr; the length is rounded up."""
    if rate == new_rate:
        return samples_S
    import soxr

    length = math.ceil(len(samples_S) * new_rate / rate)
    resampled = soxr.resample(samples_S, rate, new_rate, quality="HQ")[:length]
    missing = [(0, length - len(resampled))] + [(0, 0)] * (samples_S.ndim - 1)
    return np.pad(resampled, missing).astype(np.float32, copy=False)


def _require_file(path: Path) -> None:
    if not path.exists():
        raise ValueError(f"audio file {str(path)!r} does not exist: check the path")
    if not path.is_file():
        raise ValueError(f"audio {str(path)!r} is not a file: give a sound file")
    missing = promised_beyond_end(path)
    if missing:
        raise ValueError(
            f"audio file {str(path)!r} is cut short: its header promises {missing} more bytes; copy or export it again"
        )


def _decode(path: Path) -> tuple[np.ndarray, int]:
    import soundfile

    try:
        # Opened here: of a mere name libsndfile believes the suffix, and its MP3 decoder complains to the terminal.
        with path.open("rb") as raw, soundfile.SoundFile(raw) as file:
            promised, rate, kind = file.frames, file.samplerate, file.format
            samples_SC = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        logger.debug("libsndfile cannot read %s (%s); trying ffmpeg", path, error)
        return _decode_with_ffmpeg(path)
    lost = (promised - len(samples_SC)) / rate
    # The length of an MP3 without an index is a guess; an index has been compared with the file.
    if lost > TOLERATED_LOSS_SECONDS and kind != "MP3":
        raise _cut_short(path, lost)
    return samples_SC, rate


def _decode_with_ffmpeg(path: Path) -> tuple[np.ndarray, int]:
    import av
    from av.error import FFmpegError

    try:
        with open_container(path) as container:
            if not container.streams.audio:
                raise ValueError(f"{str(path)!r} has no sound track: give a file with sound or leave the audio out")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise ValueError(f"audio file {str(path)!r} has a codec nobody here knows: convert it to WAV")
            rate = stream.codec_context.sample_rate
            resampler = av.AudioResampler(format="fltp", rate=rate)
            blocks, begin, end = [], None, 0.0
            for frame in container.decode(stream):
                blocks += [block.to_ndarray() for block in resampler.resample(frame)]
                time = end if frame.time is None else frame.time
                begin, end = time if begin is None else begin, time + frame.samples / frame.sample_rate
            blocks += [block.to_ndarray() for block in resampler.resample(None)] if blocks else []
            lost = _stated_end(container, stream, begin or 0.0) - end
    except (FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"audio file {str(path)!r} cannot be decoded ({reason}): give a sound file, or convert it to WAV"
        ) from error
    samples_SC = np.concatenate(blocks, axis=1).T if blocks else np.zeros((0, 1), np.float32)
    if lost > TOLERATED_LOSS_SECONDS:
        raise _cut_short(path, lost)
    return np.ascontiguousarray(samples_SC), rate


def _stated_end(container: Any, stream: Any, begin: float) -> float:
    """When sound that begins at ``begin`` ends, in seconds, as an index or header states it.

    0 where the format only lets ffmpeg guess it from the bit rate.
    """
    name = container.format.name
    if "mp4" in name and stream.duration:
        return begin + float(stream.duration * stream.time_base)
    if "matroska" in name and len(container.streams) == 1 and container.duration:
        return container.duration / 1e6
    return 0.0


def _cut_short(path: Path, lost: float) -> ValueError:
    return ValueError(f"audio file {str(path)!r} is cut short by {lost:.2f} s: copy or export it again")


def _from_array(source: tuple[Any, int]) -> Sound:
    if len(source) != 2 or not isinstance(source[1], Real) or isinstance(source[0], Real):
        raise ValueError(
            "audio given as a tuple is not (samples, rate): give an array and its rate in Hz, or for several speakers "
            "a list"
        )
    try:
        values, rate = np.asarray(source[0]), float(source[1])
    except (TypeError, ValueError, RuntimeError) as error:  # lists of unequal length, tensors that NumPy cannot take
        raise ValueError(f"audio samples cannot be read ({error}): give a NumPy array") from error
    if not (rate > 0 and rate == int(rate)):
        raise ValueError(f"sample rate {source[1]} is not a positive whole number: give it in Hz")
    if values.ndim not in (1, 2):
        raise ValueError(f"audio of shape {values.shape} is not sound: use (samples,) or (samples, channels)")
    if values.ndim == 2 and values.shape[0] < values.shape[1]:
        values = values.T
    samples_SC = values[:, None] if values.ndim == 1 else values
    return _checked(_to_float(samples_SC), int(rate), "audio array")


def _to_float(values: np.ndarray) -> np.ndarray:
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if values.dtype in (np.int16, np.int32):
        return values.astype(np.float32) / -float(np.iinfo(values.dtype).min)
    raise ValueError(f"audio samples of type {values.dtype} have no scale: use float32 in [-1, 1] or int16")


def _checked(samples_SC: np.ndarray, rate: int, name: str) -> Sound:
    if samples_SC.size == 0:
        raise ValueError(f"{name} holds no samples: give some sound or leave the audio out")
    if samples_SC.shape[1] > MAX_CHANNELS:
        raise ValueError(f"{name} has {samples_SC.shape[1]} channels: use at most {MAX_CHANNELS}")
    if not np.isfinite(samples_SC).all():
        raise ValueError(f"{name} holds NaN or infinite samples: export it again")
    peak = float(np.abs(samples_SC).max())
    if peak > MAX_PEAK:
        raise ValueError(f"{name} reaches {peak:.0f}: scale its samples to [-1, 1]")
    return Sound(samples_SC=samples_SC, sample_rate=rate)
