"""How long the GPU works on something, by its own clock: without what the host takes to launch it.

Work that is shorter than its launches would be measured by them; in a generation they go ahead of the work. So it is
recorded as a CUDA graph, together with the marks before and after it and with what comes before every run: the launch
of the graph itself is not in the times either. By this clock an empty kernel takes 3 us (H200).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

WARM_UPS, RUNS = 10, 50
CALLS, ROWS_OF_CALLS = 12, 10  # in a row; rows


def microseconds(run: Callable[..., Any], inputs: tuple[object, ...] = (), *, runs: int = RUNS) -> list[float]:
    """Times of single runs of ``run(*inputs)``, which may be recorded: it neither waits for the GPU nor asks it.

    Each is a ``single_run``.
    """
    once = single_run(partial(run, *inputs))
    return [once() for _ in range(runs)]


def single_run(run: Callable[[], Any], pool: tuple[int, int] | None = None) -> Recorded:
    """A run with a cold cache, for a caller that lets several take turns: the card's clock moves while they run.

    The L2 cache is overwritten before it. It is full then of lines that have to be written back, while of what the run
    writes the last lines stay there. ``pool``: ``torch.cuda.graph_pool_handle()``, for recordings that may share the
    memory of what they compute.
    """
    for _ in range(WARM_UPS):
        run()
    flush = torch.empty(4 * torch.cuda.get_device_properties().L2_cache_size, dtype=torch.uint8, device="cuda")
    return Recorded(flush.zero_, run, pool)


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

    row = Recorded(turns, calls)
    return [row() / CALLS for _ in range(ROWS_OF_CALLS)]


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


class Recorded:
    """Work after other work, as one graph. A call runs both and returns the microseconds that ``work`` took."""

    def __init__(self, before: Callable[[], Any], work: Callable[[], Any], pool: tuple[int, int] | None = None) -> None:
        self._held = before, work  # the graph reads their memory
        self._start, self._end = (torch.cuda.Event(enable_timing=True, external=True) for _ in range(2))
        self._graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        gc.collect()  # what the collector frees while a graph is recorded may end it
        with torch.cuda.graph(self._graph, pool=pool):
            before()
            self._start.record()
            work()
            self._end.record()

    def __call__(self) -> float:
        self._graph.replay()
        torch.cuda.synchronize()
        return 1000 * self._start.elapsed_time(self._end)
