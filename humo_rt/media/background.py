"""Encoding in a thread of its own: the encoder works beside whatever makes the next frames.

Knows threads. ``VideoWriter`` knows the file.
"""

from __future__ import annotations

from queue import Queue
from threading import Thread
from types import TracebackType

import numpy as np

from humo_rt.media.writer import VideoWriter

WAITING = 4  # blocks, each a copy; more would only fill memory when the encoder is the slower one


class BackgroundWriter:
    """Used as the ``VideoWriter`` it is given, whose ``write`` it calls from a thread.

        with BackgroundWriter(VideoWriter("out.mp4", fps=25, width=832, height=480)) as writer:
            writer.write(frames)

    The file is complete when the block ends. An error of the encoder is raised by the ``write`` after it or by the end
    of the block, and nothing is left behind.
    """

    def __init__(self, writer: VideoWriter) -> None:
        self._writer = writer
        self._blocks: Queue[np.ndarray | None] = Queue(WAITING)
        self._error: BaseException | None = None
        self._given_up = False
        self._thread = Thread(target=self._encode, name="humo-rt-encoder", daemon=True)

    def __enter__(self) -> BackgroundWriter:
        self._writer.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._given_up = kind is not None
        self._blocks.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            self._writer.__exit__(type(self._error), self._error, self._error.__traceback__)
            raise self._error
        self._writer.__exit__(kind, error, trace)

    def write(self, frames_FHWC: np.ndarray) -> None:
        """Hand over (F, height, width, 3) uint8 RGB frames; waits while ``WAITING`` blocks wait already."""
        if self._error is not None:
            raise self._error
        self._blocks.put(np.array(frames_FHWC))  # a copy: the caller's are the caller's to change

    def _encode(self) -> None:
        """Every block that comes; after an error they are only taken away, so that nobody waits for ever."""
        while (block_FHWC := self._blocks.get()) is not None:
            if self._given_up or self._error is not None:
                continue
            try:
                self._writer.write(block_FHWC)
            except BaseException as error:  # noqa: BLE001  handed on to the thread that writes
                self._error = error
