"""Video files as frames at exactly 25 a second.

Knows decoding and timestamps. Sound and picture are taken to start together.

Shape suffixes: F frames, H height, W width, C colours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from humo_rt.config import FPS
from humo_rt.media.video import EXACT
from training.data.humoset.sample import BadSample


@dataclass(frozen=True, kw_only=True)
class Footage:
    """``frames_FHWC`` uint8 RGB at 25 Hz; ``source_F`` the file's own frame number of each; whether there is sound."""

    frames_FHWC: np.ndarray
    source_F: list[int]
    has_sound: bool


def read_footage(path: Path, count: int) -> Footage:
    """The first ``count`` frames at 25 Hz: of the file's frames, the one nearest in time.

    Variable frame rates are followed by their timestamps. ``BadSample`` when the file is too short or undecodable.
    """
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise BadSample("unreadable video", "it has no picture track")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            has_sound = bool(container.streams.audio)
            picked = []
            for number, frame in _nearest(container.decode(stream), float(stream.average_rate or FPS)):
                picked.append((number, frame))
                if len(picked) == count:
                    break
            images = {number: frame.to_ndarray(format="rgb24", interpolation=EXACT) for number, frame in picked}
    except FFmpegError as error:
        raise BadSample("unreadable video", error.strerror or str(error)) from error
    if len(picked) < count:
        raise BadSample("too short", f"{len(picked)} frames at {FPS} Hz, {count} are needed")
    source_F = [number for number, _ in picked]
    return Footage(frames_FHWC=np.stack([images[n] for n in source_F]), source_F=source_F, has_sound=has_sound)


def _nearest(decoded: Iterator[Any], rate: float) -> Iterator[tuple[int, Any]]:
    """For t = 0, 1/25, 2/25 ... the number of the frame nearest to t, and the frame; ends with the last one's time."""
    due = 0  # the output frame waited for
    start = last = previous = None
    for number, frame in enumerate(decoded):
        seconds = number / rate if frame.time is None else frame.time
        start = seconds if start is None else start
        middle = None if last is None else (last + seconds) / 2 - start
        while middle is not None and due / FPS < middle:
            yield previous
            due += 1
        last, previous = seconds, (number, frame)
    while last is not None and due / FPS <= last - start + 0.5 / rate:
        yield previous
        due += 1
