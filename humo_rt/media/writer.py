"""The MP4 out: H.264 and AAC, streamed, and never half-written under its final name.

Knows the encoder and the file system. Takes finished pixels and samples.

Shape suffixes: F frames, H height, W width, C colours or channels, S samples.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from humo_rt.config import SAMPLE_RATE
from humo_rt.media.audio import resample

SUFFIX = ".mp4"
VIDEO_CODEC, AUDIO_CODEC = "libx264", "aac"
# x264's "medium" takes four times as long where the picture is hard to predict, so that encoding would take longer than
# decoding the latents. At a crf of 2 less this one loses 0.3 to 0.8 dB to it, in files a fifth larger.
PRESET = "veryfast"
AAC_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)
AAC_FALLBACK_RATE = 48_000
AAC_BLOCK = 1024
LONGEST_NAME = 255  # of a file, in bytes, on any usual file system
BT709 = 1
LIMITED_RANGE = 1
# swscale's flags area and accurate rounding: colour at half resolution is the mean of four pixels.
AREA_EXACT = 0x20 | 0x40000


def check_output_path(path: str | os.PathLike[str]) -> Path:
    """The path of a video to write; ``ValueError`` for an unknown suffix or a folder that cannot take it."""
    path = Path(path)
    if "\0" in str(path) or len(os.fsencode(path.name)) > LONGEST_NAME:
        raise ValueError(
            f"output {str(path)!r} is no file name: use one of at most {LONGEST_NAME} bytes, none of them 0"
        )
    if path.suffix.lower() != SUFFIX:
        raise ValueError(f"output {str(path)!r} has suffix {path.suffix!r}: use {SUFFIX}")
    target = _target(path)
    folder = target.parent if path.is_symlink() else path.parent
    if path.is_dir():
        raise ValueError(f"output {str(path)!r} is a folder: name a file in it")
    if target.exists() and not target.is_file():
        raise ValueError(f"output {str(path)!r} is no file that a video could replace: choose another name")
    if not folder.is_dir():
        raise ValueError(f"output folder {str(folder)!r} does not exist: create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"output folder {str(folder)!r} is not writable: choose another one")
    return path


def _target(path: Path) -> Path:
    """The absolute path of what ``path`` names, through links."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise ValueError(f"output {str(path)!r} cannot be followed ({error}): choose another name") from error


class VideoWriter:
    """Encode blocks of frames to an MP4 as they come.

        with VideoWriter("out.mp4", fps=25, width=832, height=480, audio=samples, sample_rate=16_000) as writer:
            writer.write(frames)

    ``audio``: float in [-1, 1], (S,) or (S, 1 or 2); padded with silence or cut to the length of the video.
    ``metadata``: stored as JSON in the ``comment`` tag. ``crf``: 0 (lossless) to 51.
    The file appears under its name when the block ends without an error; otherwise nothing is left behind.
    ``ValueError`` for arguments that cannot be written, ``RuntimeError`` for a missing codec or a failing disk.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        fps: float | Fraction,
        width: int,
        height: int,
        audio: np.ndarray | None = None,
        sample_rate: int = SAMPLE_RATE,
        metadata: dict[str, Any] | None = None,
        crf: int = 16,
    ) -> None:
        if width < 2 or height < 2 or width % 2 or height % 2:
            raise ValueError(f"video of {width}x{height} cannot be stored: use even sizes")
        self.path = check_output_path(path)
        self.fps = Fraction(fps).limit_denominator(1001)
        self.width, self.height = width, height
        self.metadata, self.crf = metadata, crf
        self.num_frames = 0
        self._sound_SC, self._rate = _encodable_sound(audio, sample_rate)
        self._sent = 0
        # Absolute, as a relative name with a colon would be taken for a protocol; a link stays one.
        self._target = _target(self.path)
        self._temporary = self._target.with_name(f".humo-{uuid.uuid4().hex}{SUFFIX}")
        self._container: Any = None
        self._video: Any = None
        self._audio: Any = None

    def __enter__(self) -> VideoWriter:
        check_codecs(sound=self._sound_SC is not None)
        try:
            with self._explained():
                self._open()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._finish()
        except BaseException:
            self._discard()
            raise

    def write(self, frames_FHWC: np.ndarray) -> None:
        """Encode (F, height, width, 3) uint8 RGB frames, with the sound that belongs to them."""
        import av
        from av.video.reformatter import ColorRange, Colorspace

        frames = np.asarray(frames_FHWC)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (self.height, self.width, 3):
            raise ValueError(
                f"frames are {frames.dtype} {frames.shape}: give uint8 (frames, {self.height}, {self.width}, 3)"
            )
        with self._explained():
            for pixels in frames:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                picture = picture.reformat(
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                    interpolation=AREA_EXACT,
                )
                picture.pts, picture.time_base = self.num_frames, 1 / self.fps
                self._container.mux(self._video.encode(picture))
                self.num_frames += 1
            # Sound follows the picture closely: the muxer holds back what it cannot interleave.
            self._send_sound(whole_blocks_only=True)

    def unlink(self) -> None:
        """Remove the unfinished file, though the encoder may still be writing to it."""
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def _open(self) -> None:
        import av

        self._container = av.open(str(self._temporary), "w", format="mp4", options={"movflags": "+faststart"})
        if self.metadata is not None:
            self._container.metadata["comment"] = _as_json(self.metadata)
        self._video = self._container.add_stream(VIDEO_CODEC, rate=self.fps)
        self._video.width, self._video.height, self._video.pix_fmt = self.width, self.height, "yuv420p"
        self._video.options = {"crf": str(self.crf), "preset": PRESET}
        self._video.thread_type = "FRAME"  # PyAV's slices are slower and make larger files
        context = self._video.codec_context
        # Untagged video is shown with other colours at different sizes, depending on the player.
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        if self._sound_SC is not None:
            self._audio = self._container.add_stream(AUDIO_CODEC, rate=self._rate)
            self._audio.layout = _layout(self._sound_SC)
            self._audio.bit_rate = min(4 * self._rate, 128_000) * self._sound_SC.shape[1]

    def _send_sound(self, *, whole_blocks_only: bool) -> None:
        import av

        if self._sound_SC is None:
            return
        until = round(self.num_frames / self.fps * self._rate)
        while self._sent < until:
            size = min(AAC_BLOCK, until - self._sent)
            if size < AAC_BLOCK and whole_blocks_only:
                return
            block_SC = self._sound_SC[self._sent : self._sent + size]
            block_SC = np.pad(block_SC, ((0, size - len(block_SC)), (0, 0)))
            planar = np.ascontiguousarray(block_SC.T)
            frame = av.AudioFrame.from_ndarray(planar, format="fltp", layout=_layout(block_SC))
            frame.sample_rate, frame.pts, frame.time_base = self._rate, self._sent, Fraction(1, self._rate)
            self._container.mux(self._audio.encode(frame))
            self._sent += size

    def _finish(self) -> None:
        if self.num_frames == 0:
            raise ValueError(f"no frames were written to {str(self.path)!r}: write some before the file is closed")
        with self._explained():
            self._send_sound(whole_blocks_only=False)
            self._container.mux(self._video.encode(None))
            if self._audio is not None:
                self._container.mux(self._audio.encode(None))
            self._container.close()
            self._temporary.replace(self._target)

    def _discard(self) -> None:
        from av.error import FFmpegError

        if self._container is not None:
            # The file is given up: what its encoder still has to say is of no interest.
            with suppress(FFmpegError, OSError):
                self._container.close()
        self._temporary.unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from av.error import FFmpegError

        try:
            yield
        except (FFmpegError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RuntimeError(
                f"cannot write {str(self.path)!r} ({reason}): check the free space and the rights of its folder"
            ) from error


def check_codecs(*, sound: bool) -> None:
    """``RuntimeError`` unless PyAV can encode a video, with or without ``sound``."""
    import av
    from av.codec.codec import UnknownCodecError

    for name in (VIDEO_CODEC, AUDIO_CODEC) if sound else (VIDEO_CODEC,):
        try:
            av.codec.Codec(name, "w")
        except UnknownCodecError as error:
            raise RuntimeError(
                f"codec {name} is not in this build of ffmpeg: reinstall PyAV from its wheel (pip install --force av)"
            ) from error


def _encodable_sound(audio: np.ndarray | None, rate: int) -> tuple[np.ndarray | None, int]:
    """Sound as float32 (S, 1 or 2) at a rate AAC knows."""
    if audio is None:
        return None, rate
    sound_SC = np.asarray(audio, dtype=np.float32)
    if sound_SC.ndim == 1:
        sound_SC = sound_SC[:, None]
    if sound_SC.shape[1] > 2:
        sound_SC = sound_SC.mean(axis=1, keepdims=True)
    if not np.isfinite(sound_SC).all():
        raise ValueError("audio holds NaN or infinite samples: export it again")
    if rate not in AAC_RATES:
        sound_SC, rate = resample(sound_SC, rate, AAC_FALLBACK_RATE), AAC_FALLBACK_RATE
    return sound_SC.clip(-1, 1), rate


def _as_json(metadata: dict[str, Any]) -> str:
    """Legible where it can be encoded: names of files may hold bytes that are no text."""
    text = json.dumps(metadata, ensure_ascii=False, sort_keys=True)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(metadata, sort_keys=True)
    return text


def _layout(sound_SC: np.ndarray) -> str:
    return "mono" if sound_SC.shape[1] == 1 else "stereo"
