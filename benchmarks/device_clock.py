"""How long the GPU works on something, by its own clock: without what the host takes to launch it.

Work that is shorter than its launches would be measured by them; in a generation they go ahead of the work. So it is
recorded once as a CUDA graph, which one launch replays, each time with a cold L2.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch

WARM_UPS, RUNS = 10, 50


def microseconds(run: Callable[..., Any], inputs: tuple[object, ...] = (), *, runs: int = RUNS) -> list[float]:
    """Times of single runs of ``run(*inputs)``, which may be recorded: it neither waits for the GPU nor asks it."""
    for _ in range(WARM_UPS):
        run(*inputs)
    torch.cuda.synchronize()
    gc.collect()  # what the collector frees while a graph is recorded may end it
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(*inputs)
    flush = torch.empty(4 * torch.cuda.get_device_properties().L2_cache_size, dtype=torch.uint8, device="cuda")
    marks = []
    for _ in range(runs):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        marks.append((start, end))
    torch.cuda.synchronize()
    return [1000 * start.elapsed_time(end) for start, end in marks]
