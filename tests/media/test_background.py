"""Encoding beside the work that makes the frames: the same file, the same errors, and nobody waits for ever."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from humo_rt.media import BackgroundWriter, VideoWriter, read_video
from humo_rt.media.background import WAITING

SIZE = 64
BLOCKS = WAITING + 3


def frames(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)


def writer(path) -> VideoWriter:
    return VideoWriter(path, fps=25, width=SIZE, height=SIZE)


def write(path, wrap=lambda given: given, blocks: int = BLOCKS) -> bytes:
    with wrap(writer(path)) as opened:
        for number in range(blocks):
            block = frames(number)
            opened.write(block)
            block[:] = 0  # the caller's again
    return path.read_bytes()


def test_the_file_is_the_same_to_the_byte(tmp_path):
    assert write(tmp_path / "beside.mp4", BackgroundWriter) == write(tmp_path / "alone.mp4")
    assert len(read_video(tmp_path / "beside.mp4")[0]) == 2 * BLOCKS


class Failing(VideoWriter):
    """Refuses its first block."""

    def write(self, frames_FHWC):
        raise RuntimeError("the disk is full")


def test_an_error_of_the_encoder_is_raised_and_leaves_nothing(tmp_path):
    def wrap(given: VideoWriter) -> BackgroundWriter:
        return BackgroundWriter(Failing(given.path, fps=25, width=SIZE, height=SIZE))

    for blocks in (1, BLOCKS):  # found at the end, or by a later block
        with pytest.raises(RuntimeError, match="the disk is full"):
            write(tmp_path / "out.mp4", wrap, blocks)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_a_failure_outside_leaves_nothing(tmp_path, error):
    threads = threading.active_count()
    with pytest.raises(error):
        write_and_fail(tmp_path / "out.mp4", error)
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads


def write_and_fail(path, error):
    with BackgroundWriter(writer(path)) as opened:
        opened.write(frames(0))
        raise error


class Slow(VideoWriter):
    """Encodes when it is told to."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.go = threading.Event()

    def write(self, frames_FHWC):
        self.go.wait(10)
        super().write(frames_FHWC)


def test_only_so_many_blocks_wait(tmp_path):
    slow = Slow(tmp_path / "out.mp4", fps=25, width=SIZE, height=SIZE)
    with BackgroundWriter(slow) as opened:
        for number in range(WAITING + 1):  # one more is at the encoder
            opened.write(frames(number))
        late = threading.Thread(target=opened.write, args=(frames(9),))
        late.start()
        late.join(0.2)
        assert late.is_alive()
        slow.go.set()
        late.join(10)
        assert not late.is_alive()
    assert len(read_video(tmp_path / "out.mp4")[0]) == 2 * (WAITING + 2)


def test_an_interrupt_while_the_last_blocks_are_encoded_leaves_nothing(tmp_path, monkeypatch):
    slow = Slow(tmp_path / "out.mp4", fps=25, width=SIZE, height=SIZE)
    opened = BackgroundWriter(slow).__enter__()
    opened.write(frames(0))
    opened.write(frames(1))
    join = opened._thread.join

    def interrupted(timeout=None):
        monkeypatch.setattr(opened._thread, "join", join)
        slow.go.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(opened._thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened.__exit__(None, None, None)
    assert not opened._thread.is_alive()
    assert list(tmp_path.iterdir()) == []


def test_a_second_interrupt_leaves_nothing(tmp_path, monkeypatch):
    slow = Slow(tmp_path / "out.mp4", fps=25, width=SIZE, height=SIZE)
    slow._temporary.touch()  # as the first block does that goes to the disk
    opened = BackgroundWriter(slow).__enter__()
    opened.write(frames(0))
    join = opened._thread.join

    def interrupted(timeout=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(opened._thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert list(tmp_path.iterdir()) == []
    slow.go.set()
    join()
    assert list(tmp_path.iterdir()) == []


class ClosesItself(VideoWriter):
    """What the collector does that runs in the encoder's thread."""

    close = None

    def write(self, frames_FHWC):
        super().write(frames_FHWC)
        self.close()


@pytest.mark.parametrize("blocks", [1, WAITING + 1])
def test_an_iterator_that_the_encoder_collects_is_closed(tmp_path, blocks):
    closing = ClosesItself(tmp_path / "out.mp4", fps=25, width=SIZE, height=SIZE)
    opened = BackgroundWriter(closing)
    closing.close = lambda: opened.__exit__(GeneratorExit, GeneratorExit(), None)
    opened.__enter__()
    for number in range(blocks):
        opened._blocks.put(frames(number))
    opened._thread.join(10)
    assert not opened._thread.is_alive()
    assert list(tmp_path.iterdir()) == []


def test_a_thread_that_cannot_start_leaves_nothing(tmp_path, monkeypatch):
    opened = BackgroundWriter(writer(tmp_path / "out.mp4"))

    def refuse():
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(opened._thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        opened.__enter__()
    assert list(tmp_path.iterdir()) == []
