"""Video files in: frames, frame rate, and the settings our own files carry.

Shape suffixes: F frames, H height, W width, C colours.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from humo_rt.media.container import open_container

# Frames dropped by an edit list are legitimate; a cut file misses more.
TOLERATED_LOSS = 0.1
# ffmpeg's name of the terminal animations it sees in any text file.
TEXT_FORMAT = "tty"
# swscale's flags bicubic, full colour and accurate rounding: its default darkens every pixel by one level.
EXACT = 0x4 | 0x2000 | 0x40000


def read_video(path: str | os.PathLike[str]) -> tuple[np.ndarray, float]:
    """All frames (F, H, W, 3) uint8 RGB and the frame rate in Hz.

    ``ValueError`` when the file is missing, not a video, without frames or cut short.
    """
    with _opened(path) as container:
        if not container.streams.video or container.format.name == TEXT_FORMAT:
            raise ValueError(f"{str(path)!r} has no picture track: give a video")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        frames = [frame.to_ndarray(format="rgb24", interpolation=EXACT) for frame in container.decode(stream)]
        rate, stated = stream.average_rate or stream.guessed_rate, stream.frames
    if not frames or not rate:
        raise ValueError(f"video {str(path)!r} holds no frames: give another file")
    if len(frames) < (1 - TOLERATED_LOSS) * stated:
        raise ValueError(f"video {str(path)!r} is cut short: {len(frames)} of {stated} frames; copy it again")
    return np.stack(frames), float(rate)


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings that ``VideoWriter`` stored in a video; empty when there are none."""
    with _opened(path) as container:
        comment = container.metadata.get("comment", "")
    try:
        settings = json.loads(comment)
    except json.JSONDecodeError:
        return {}
    return settings if isinstance(settings, dict) else {}


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    from av.error import FFmpegError

    if not Path(path).is_file():
        raise ValueError(f"video file {str(path)!r} does not exist: check the path")
    try:
        with open_container(path) as container:
            yield container
    except FFmpegError as error:
        raise ValueError(f"video {str(path)!r} cannot be decoded ({error.strerror}): give another file") from error
