"""How long the GPU works on something, by its own clock: without what the host takes to launch it.

Work that is shorter than its launches would be measured by them; in a generation they go ahead of the work. So it is
recorded as a CUDA graph, together with the marks before and after it and with what overwrites the L2 cache before
every run: the launch of the graph itself is not in the times either. By this clock an empty kernel takes 3 us (H200).
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
    flush = torch.empty(4 * torch.cuda.get_device_properties().L2_cache_size, dtype=torch.uint8, device="cuda")
    start, end = (torch.cuda.Event(enable_timing=True, external=True) for _ in range(2))
    torch.cuda.synchronize()
    gc.collect()  # what the collector frees while a graph is recorded may end it
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        flush.zero_()
        start.record()
        run(*inputs)
        end.record()

    def replayed() -> float:
        graph.replay()
        torch.cuda.synchronize()
        return 1000 * start.elapsed_time(end)

    return [replayed() for _ in range(runs)]
