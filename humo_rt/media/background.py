"""Encoding in a thread of its own: the encoder works beside whatever makes the next frames.

Knows threads. ``VideoWriter`` knows the file.
"""

from __future__ import annotations

from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Thread, current_thread
from types import TracebackType

import numpy as np

from humo_rt.media.writer import VideoWriter

WAITING = 4  # blocks, each a copy; more would only fill memory when the encoder is the slower one
PATIENCE = 0.5  # seconds, after which a thread that waits looks whether it still should


class BackgroundWriter:
    """Used as the ``VideoWriter`` it is given, whose ``write`` it calls from a thread.

        with BackgroundWriter(VideoWriter("out.mp4", fps=25, width=832, height=480)) as writer:
            writer.write(frames)

    The file is complete when the block ends. An error of the encoder is raised by the ``write`` after it or by the end
    of the block; then, and after any other error, nothing is left behind.
    """

    def __init__(self, writer: VideoWriter) -> None:
        self._writer = writer
        self._blocks: Queue[np.ndarray | None] = Queue(WAITING)
        self._error: BaseException | None = None
        self._given_up = self._abandoned = False
        self._thread = Thread(target=self._encode, name="humo-rt-encoder", daemon=True)

    def __enter__(self) -> BackgroundWriter:
        self._writer.__enter__()
        try:
            self._thread.start()
        except BaseException as error:
            self._discard(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if current_thread() is self._thread:
            # The collector closes a forgotten iterator in whatever thread it runs; this one ends after its block.
            self._abandoned = True
            return
        if kind is not None:
            self._stop()
            self._writer.__exit__(kind, error, trace)
            return
        try:
            self._blocks.put(None)
            self._thread.join()
            if self._error is not None:
                raise self._error
        except BaseException as failure:  # an interrupt while the last blocks are encoded, too
            self._stop()
            self._discard(failure)
            raise
        self._writer.__exit__(None, None, None)

    def write(self, frames_FHWC: np.ndarray) -> None:
        """Hand over (F, height, width, 3) uint8 RGB frames; waits while ``WAITING`` blocks wait already."""
        if self._error is not None:
            raise self._error
        self._blocks.put(np.array(frames_FHWC))  # a copy: the caller's are the caller's to change

    def _encode(self) -> None:
        """Every block that comes; after an error they are only taken away, so that nobody waits for ever."""
        while not self._abandoned:
            try:
                block_FHWC = self._blocks.get(timeout=PATIENCE)
            except Empty:
                continue
            if block_FHWC is None:
                break
            if self._given_up or self._error is not None:
                continue
            try:
                self._writer.write(block_FHWC)
            except BaseException as error:  # noqa: BLE001  handed on to the thread that writes
                self._error = error
        if self._abandoned:
            self._discard(GeneratorExit())

    def _stop(self) -> None:
        """Wait until the thread is done; it skips what waits."""
        self._given_up = True
        try:
            while self._thread.is_alive():
                with suppress(Full):
                    self._blocks.put(None, timeout=PATIENCE)
                self._thread.join(PATIENCE)
        except BaseException:  # an interrupt: the thread is left to itself, and may not live to tidy up
            self._abandoned = True
            self._writer.unlink()
            raise

    def _discard(self, error: BaseException) -> None:
        self._writer.__exit__(type(error), error, error.__traceback__)
