"""Where the time of a generation goes: seconds per stage and step, peak memory, and named ranges for NVIDIA Nsight.

Ranges need the package ``nvtx``; without it there are none. Steps are timed with events on a GPU, so that nothing waits
inside the denoise loop.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

DOMAIN = "humo_rt"


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Times of one generation in seconds.

    stages: each with the device waited for before and after it; ``total`` also holds what lies between them.
    steps: of every denoising step, without callbacks. branches: guidance branches that each step computed; those that
    ``guidance_reuse`` left out are not among them.
    peak_memory: bytes: on a GPU of PyTorch's tensors during the generation, otherwise of the process since it began;
    None where the system does not say.
    """

    stages: dict[str, float]
    steps: tuple[float, ...]
    branches: tuple[int, ...]
    peak_memory: int | None

    @property
    def step_p50(self) -> float:
        """Median seconds of a step."""
        return statistics.median(self.steps)

    @property
    def step_p90(self) -> float:
        """Seconds that nine steps in ten do not exceed."""
        return sorted(self.steps)[-(-9 * len(self.steps) // 10) - 1]

    @property
    def branch_forward(self) -> float:
        """Median over the steps of the seconds that one guidance branch took."""
        return statistics.median(step / count for step, count in zip(self.steps, self.branches, strict=True))

    def rows(self) -> list[tuple[str, str]]:
        """Names and values as a table shows them."""
        times = {**self.stages, "step p50": self.step_p50, "step p90": self.step_p90, "branch": self.branch_forward}
        rows = [(name, f"{seconds:.4f} s") for name, seconds in times.items()]
        rows.append(("branches run", str(sum(self.branches))))
        return rows if self.peak_memory is None else [*rows, ("peak memory", f"{self.peak_memory / 2**30:.2f} GiB")]


def named_range(name: str) -> AbstractContextManager[Any]:
    """A range of this name in a profile, if ``nvtx`` is installed."""
    annotate = _annotate()
    return nullcontext() if annotate is None else annotate(name, domain=DOMAIN)


@cache
def _annotate() -> Callable[..., AbstractContextManager[Any]] | None:
    try:
        import nvtx
    except ModuleNotFoundError:
        return None
    return nvtx.annotate


class Tracer:
    """Measures one generation on ``device``; hand ``step`` to the denoise loop as ``around_step``."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[Any, Any]] = []
        self._branches: list[int] = []
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    @contextmanager
    def step(self, index: int, branches: int) -> Iterator[None]:
        with named_range(f"step {index}"):
            begin = self._mark()
            yield
            self._marks.append((begin, self._mark()))
            self._branches.append(branches)

    def finish(self, stages: dict[str, float]) -> Trace:
        """The trace of a generation that is done. Waits for the device."""
        return Trace(
            stages=stages,
            steps=tuple(self._seconds(*marks) for marks in self._marks),
            branches=tuple(self._branches),
            peak_memory=_peak_memory(self._device),
        )

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _seconds(self, begin: Any, end: Any) -> float:
        if self._device.type != "cuda":
            return end - begin
        end.synchronize()
        return begin.elapsed_time(end) / 1000


@contextmanager
def block_ranges(dit: Any) -> Iterator[None]:
    """A range around every block of ``dit`` while the context lasts; a DiT that runs as one graph has none.

    Set where a compiled block is called from, and not as hooks, which would be compiled with it.
    """
    blocks: Sequence[Any] = getattr(dit, "blocks", ()) if _annotate() else ()
    calls = [block._compiled_call_impl for block in blocks]
    for index, (block, call) in enumerate(zip(blocks, calls, strict=True)):
        block._compiled_call_impl = _in_range(f"block {index}", call or block._call_impl)
    try:
        yield
    finally:
        for block, call in zip(blocks, calls, strict=True):
            block._compiled_call_impl = call


def _in_range(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def ranged(*args: Any, **kwargs: Any) -> Any:
        with named_range(name):
            return call(*args, **kwargs)

    return ranged


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
