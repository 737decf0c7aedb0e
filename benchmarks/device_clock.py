"""How long the GPU works on something, by its own clock: without what the host takes to launch it.

Work that is shorter than its launches would be measured by them; in a generation they go ahead of the work. So it is
recorded as a CUDA graph, together with the marks before and after it and with what comes before every run: the launch
of the graph itself is not in the times either. By this clock an empty kernel takes 3 us (H200).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch

WARM_UPS, RUNS = 10, 50
CALLS, ROWS_OF_CALLS = 12, 10  # in a row; rows


def microseconds(run: Callable[..., Any], inputs: tuple[object, ...] = (), *, runs: int = RUNS) -> list[float]:
    """Times of single runs of ``run(*inputs)``, which may be recorded: it neither waits for the GPU nor asks it.

    The L2 cache is overwritten before each. It is full then of lines that have to be written back, while of what the
    run writes the last lines stay there.
    """
    for _ in range(WARM_UPS):
        run(*inputs)
    flush = torch.empty(4 * torch.cuda.get_device_properties().L2_cache_size, dtype=torch.uint8, device="cuda")
    return _replayed(flush.zero_, lambda: run(*inputs), runs)


def microseconds_in_a_row(run: Callable[..., Any], each: Sequence[tuple[object, ...]]) -> list[float]:
    """How long a call takes on average within a row of ``CALLS``, for each of ``ROWS_OF_CALLS`` rows.

    The calls go through the inputs in ``each`` in turn. All of them together should be much larger than the L2 cache:
    then every call finds there what the one before left, and leaves as much to be written back.
    """
    for inputs in each:
        run(*inputs)
    turns = Turns(run, each)

    def calls() -> None:
        for _ in range(CALLS):
            turns()

    return [time / CALLS for time in _replayed(turns, calls, ROWS_OF_CALLS)]


class Turns:
    """Calls of ``run``, each with the next inputs. A result lasts until its inputs' next turn: in the memory of the one
    before, a result would overwrite that in the cache, and nothing would have to be written back."""

    def __init__(self, run: Callable[..., Any], each: Sequence[tuple[object, ...]]) -> None:
        self.run, self.each = run, each
        self.results: list[Any] = [None] * len(each)
        self.turn = 0

    def __call__(self) -> None:
        self.results[self.turn] = self.run(*self.each[self.turn])
        self.turn = (self.turn + 1) % len(self.each)


def _replayed(before: Callable[[], Any], work: Callable[[], Any], runs: int) -> list[float]:
    """Times of ``work``, each after ``before``."""
    start, end = (torch.cuda.Event(enable_timing=True, external=True) for _ in range(2))
    torch.cuda.synchronize()
    gc.collect()  # what the collector frees while a graph is recorded may end it
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        before()
        start.record()
        work()
        end.record()

    def replayed() -> float:
        graph.replay()
        torch.cuda.synchronize()
        return 1000 * start.elapsed_time(end)

    return [replayed() for _ in range(runs)]
