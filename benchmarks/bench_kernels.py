"""Every kernel on its real workloads: time, bytes a second, percent of the memory's peak, against what others have.

    python benchmarks/bench_kernels.py [--op guided_update] [--backends triton cuda] [--seconds 180] [--json FILE]

Needs an NVIDIA GPU. Every op runs in a process of its own: one that crashes or hangs is reported with what it measured
before, and stops no other. The processes prepare side by side, which is where the minutes go: each kernel passes the
op's own cases, each library's call those of a small workload, and what has to be compiled is. Then they are timed one
after the other, as recorded graphs, so that launches do not count. The L2 cache is overwritten before single runs.

"reference" is plain PyTorch, "compiled" is torch.compile of it, "library" the best calls that a library has for the op
(``library_calls``), each with a row of its own. GB/s are the bytes that the op has to move over its time. Percent of
peak is of what the memory's clock promises, percent of copy of what a copy of 2 GB reaches in the op's process. Kernels
are timed in a row, too, each call on other inputs (``device_clock``). Prints a table, how many times faster than each
of the others the faster of the op's kernels is, which workloads of full size stay below 80 % of copy with it, in single
runs or in a row, then one line of JSON.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib
import importlib.util
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from device_clock import CALLS, RUNS, microseconds, microseconds_in_a_row
from kernel_record import UNFINISHED, Record
from kernel_table import print_rows, print_summary
from library_calls import LIBRARY_CALLS, Call
from own_process import Preparing, announce, wait_for_turn
from reporting import hand_over, headline, report_of, save

from humo_rt.kernels import registry
from humo_rt.kernels.testing import Case, check, deviation, taken

CUDA = torch.device("cuda")
COMPILED, LIBRARY = "compiled", "library"
BACKENDS = (*registry.BACKENDS, registry.REFERENCE, LIBRARY, COMPILED)
CASES = "its cases"
OTHER_RUNS = 15  # of what is no kernel of ours: some of it takes a hundred times as long
COMPILING = 60  # seconds that the compiler has for an op
POLL = 0.1  # seconds
COPIED = 2**31  # bytes of the copy that others are measured by
AT_ONCE = 4  # processes that hold inputs of full size while they prepare
# Where a library's call is checked: in float64 the larger workloads do not fit.
SMALL_WORKLOADS = {"rms_silu": "120x208 384 channels", "causal_conv": "60x104 384-384"}

Row = dict[str, Any]


def main() -> None:
    args = parse_arguments()
    if not torch.cuda.is_available():
        sys.exit("bench_kernels needs an NVIDIA GPU: torch finds none here")
    if args.rows:
        bench(args.op[0], args.backends, Record(args.rows))
        return
    report = report_of(CUDA, results=[])
    print(f"{headline(report)}; microseconds, median of {RUNS} runs, of {OTHER_RUNS} where no kernel of ours runs")
    with tempfile.TemporaryDirectory() as folder, processes(args, Path(folder)) as started:
        for op, process in started.items():
            rows = rows_of(op, process, Path(folder), args.seconds)
            print_rows(rows)
            report["results"] += rows
            save(report, args.json)
    print_summary(report["results"])
    hand_over(report, args.json)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", choices=registry.OPS, nargs="+", default=list(registry.OPS))
    parser.add_argument("--backends", choices=BACKENDS, nargs="+", default=list(BACKENDS))
    parser.add_argument(
        "--seconds", type=float, default=180, help="for all ops to prepare, and for one to be timed, then it is stopped"
    )
    parser.add_argument("--json", type=Path, help="file for the report")
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)  # where the process of one op leaves its rows
    return parser.parse_args()


@contextmanager
def processes(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Preparing]]:
    """By op a process that is prepared, or has failed to."""
    announce(f"preparing {', '.join(args.op)}, for {args.seconds:g} s at most")
    started: dict[str, Preparing] = {}
    try:
        for op in args.op:
            rows = folder / f"{op}.json"
            arguments = ("--op", op, "--rows", rows, "--backends", *args.backends)
            started[op] = Preparing(__file__, *arguments, mark=mark_of(rows))
        until = time.monotonic() + args.seconds
        for process in started.values():
            process.finish_preparing(until)
        yield started
    finally:
        for process in started.values():
            process.stop()


def mark_of(rows: Path) -> Path:
    return rows.with_suffix(".prepared")


def rows_of(op: str, process: Preparing, folder: Path, seconds: float) -> list[Row]:
    """The rows of one op, timed now; the one it died of says so."""
    announce(f"{op}, stopped after {seconds:g} s")
    failure, found = process.take_turn(seconds), folder / f"{op}.json"
    rows: list[Row] = json.loads(found.read_text()) if found.exists() else []
    if failure is None:
        return rows
    if not rows or rows[-1].get("failed") != UNFINISHED:
        rows.append({"op": op, "backend": "", "workload": ""})
    rows[-1]["failed"] = failure
    return rows


class Ready(NamedTuple):
    """What to time, with the op's arguments as it takes them; ``facts`` of it are part of every row."""

    backend: str
    run: Callable[..., Any]
    given: Callable[..., tuple[Any, ...]]
    facts: dict[str, Any]


def bench(op: str, backends: list[str], record: Record) -> None:
    """A row for what each backend has to pass; when it is this op's turn, one for each that did and each workload."""
    cases = importlib.import_module(f"humo_rt.kernels.{op}.cases")
    ready: list[Ready] = []
    for backend in BACKENDS:  # in this order, whatever the order they are asked for in
        if backend in backends:
            ready += prepared(op, backend, record)
    ready = [each for each in ready if each.backend == registry.REFERENCE or warmed(op, each, record)]
    torch.cuda.empty_cache()
    wait_for_turn(mark_of(record.path))
    peak, copy = peak_bytes_per_second(), copy_bytes_per_second()
    for backend, run, given, facts in ready:
        for workload, shape in cases.WORKLOADS.items():
            inputs = cases.make_inputs(shape, torch.bfloat16, CUDA)
            if not taken(op, backend, inputs):
                record.absent(op, backend, f"{backend} is not written for it", workload)
                continue
            with record.row(op, backend, workload) as row:
                moved, runs = cases.bytes_moved(*inputs), RUNS if backend in registry.BACKENDS else OTHER_RUNS
                times = microseconds(run, given(*inputs), runs=runs)
                median = statistics.median(times)
                speed = moved / (median * 1e-6)
                row |= {"median": median, "fastest": min(times), "slowest": max(times), "bytes": moved, **facts}
                row |= {"gb_per_second": speed / 1e9}
                row |= {"percent_of_peak": 100 * speed / peak, "percent_of_copy": 100 * speed / copy}
                row |= {"peak_gb_per_second": peak / 1e9, "copy_gb_per_second": copy / 1e9}
                if backend in registry.BACKENDS:
                    others = [cases.make_inputs(shape, torch.bfloat16, CUDA) for _ in range(others_of(moved))]
                    each = [given(*one) for one in (inputs, *others)]
                    row["in_a_row"] = statistics.median(microseconds_in_a_row(run, each))
                    row["percent_of_copy_in_a_row"] = 100 * moved / (row["in_a_row"] * 1e-6) / copy


def others_of(moved: int) -> int:
    """How many other inputs make calls in a row move much more than the L2 cache holds, and no call find its own there.

    Small ones would need more than there are calls in a row: they are found in part.
    """
    enough = 8 * torch.cuda.get_device_properties(CUDA).L2_cache_size // moved
    return max(2, min(CALLS - 1, enough))


def prepared(op: str, backend: str, record: Record) -> Iterator[Ready]:
    """What of a backend may be timed; the rows say what else there is, and why it may not."""
    if backend == LIBRARY:
        yield from prepared_calls(op, record)
    elif written(op, backend):
        with record.row(op, backend, CASES) as row:
            run = runnable(op, backend)
        if "failed" not in row:
            yield Ready(backend, run, _unchanged, {})


def prepared_calls(op: str, record: Record) -> Iterator[Ready]:
    """Those of libraries, in agreement with the common rule on inputs as they take them."""
    calls = LIBRARY_CALLS[op]
    if isinstance(calls, str):
        record.absent(op, LIBRARY, calls)
        return
    for call in calls:
        if call.missing() is not None:
            record.absent(op, LIBRARY, call.missing())
            continue
        facts = {"library": call.library} | ({"differs": call.differs} if call.differs else {})
        with record.row(op, LIBRARY, CASES) as row:
            row |= facts
            check_call(op, call)
        if "failed" not in row:
            yield Ready(LIBRARY, call.run, call.given, facts)


def check_call(op: str, call: Call) -> None:
    """``AssertionError`` unless it agrees on a small workload."""
    cases = importlib.import_module(f"humo_rt.kernels.{op}.cases")
    workload = SMALL_WORKLOADS.get(op) or next(name for name in cases.WORKLOADS if name.startswith("nano"))

    def make(device: torch.device) -> tuple[Any, ...]:
        return call.given(*cases.make_inputs(cases.WORKLOADS[workload], torch.bfloat16, device))

    found = deviation(op, call.run, Case(name=workload, make=make), CUDA)
    assert found.accepted, f"{workload}: error {found.error:.3g} > {found.bound:.3g}"


def warmed(op: str, ready: Ready, record: Record) -> bool:
    """Whether it ran once on every workload, which compiles what is compiled; a row says what went wrong."""
    cases = importlib.import_module(f"humo_rt.kernels.{op}.cases")
    limit = COMPILING if ready.backend == COMPILED else 0
    with record.failure_alone(op, ready.backend, "before it is timed") as row, memory_slot(record.path.parent):
        row |= ready.facts
        with time_limit(limit):
            for shape in cases.WORKLOADS.values():
                with suppress(torch.OutOfMemoryError):  # others prepare beside it: it will have room in its turn
                    inputs = cases.make_inputs(shape, torch.bfloat16, CUDA)
                    if taken(op, ready.backend, inputs):
                        ready.run(*ready.given(*inputs))
                torch.cuda.empty_cache()
    return "failed" not in row


@contextmanager
def memory_slot(folder: Path) -> Iterator[None]:
    """Inputs of full size: there is memory for so many processes at once. One that hangs keeps its place alone."""
    with ExitStack() as stack:
        slots = [stack.enter_context((folder / f"slot{number}").open("w")) for number in range(AT_ONCE)]
        while not any(_locked(slot) for slot in slots):
            time.sleep(POLL)
        yield


def _locked(slot: IO[str]) -> bool:
    """Whether it is ours now, until it is closed."""
    try:
        fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """``TimeoutError`` in whatever Python does after that time; 0 for no limit."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def written(op: str, backend: str) -> bool:
    kernel = backend in registry.BACKENDS
    return not kernel or importlib.util.find_spec(f"humo_rt.kernels.{op}.{backend}_impl") is not None


def runnable(op: str, backend: str) -> Callable[..., Any]:
    """What to time; a kernel has passed the op's cases."""
    if backend == COMPILED:
        # In this process, where the time limit reaches it: the others compile beside it anyway.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        reference = registry.implementation(op, registry.REFERENCE)
        return torch.compile(reference, fullgraph=True, dynamic=False)
    run = registry.implementation(op, backend)
    if backend in registry.BACKENDS:
        check(op, backend, CUDA)
    return run


def copy_bytes_per_second() -> float:
    """What a copy within the device's memory moves, reads and writes together.

    The faster of two kernels: PyTorch's copy, once recorded, is slower than some ops are.
    """
    source = torch.ones(COPIED // 4, dtype=torch.int32, device=CUDA)
    target = torch.empty_like(source)
    kernels = partial(target.copy_, source), partial(torch.bitwise_not, source, out=target)
    return 2 * source.nbytes / (min(statistics.median(microseconds(kernel)) for kernel in kernels) * 1e-6)


def peak_bytes_per_second() -> float:
    """What the memory's clock and bus width promise: two transfers in each cycle."""
    properties = torch.cuda.get_device_properties(CUDA)
    return 2 * properties.memory_clock_rate * 1e3 * properties.memory_bus_width / 8


def _unchanged(*inputs: Any) -> tuple[Any, ...]:
    return inputs


if __name__ == "__main__":
    main()
