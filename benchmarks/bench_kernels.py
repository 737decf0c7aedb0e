"""Every kernel on its real workloads: time, bytes a second, percent of the memory's peak, against PyTorch.

    python benchmarks/bench_kernels.py [--op guided_update] [--backends triton cuda] [--seconds 180] [--json FILE]

Needs an NVIDIA GPU. Every op runs in a process of its own and is stopped after --seconds: one that crashes or hangs is
reported with what it measured before, and stops no other. Each kernel passes the op's own cases before it is timed, as
a recorded graph, so that launches do not count. The L2 cache is overwritten before every run. "reference" is plain
PyTorch, "compiled" is torch.compile of it, which takes minutes for some ops and so comes last. Percent of peak is of
what the memory's clock promises, percent of copy of what a copy of 2 GB reaches in the op's process, percent of an
equal copy of what one reaches that moves as many bytes as the op. Prints a table, which workloads of full size stay
below the bar of 80 % of an equal copy with the faster of the op's kernels, then one line of JSON.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from device_clock import RUNS, microseconds
from own_process import announce, failure_of
from reporting import hand_over, headline, report_of, save

from humo_rt.kernels import registry
from humo_rt.kernels.testing import check

CUDA = torch.device("cuda")
COMPILED = "compiled"
BACKENDS = (*registry.BACKENDS, registry.REFERENCE, COMPILED)
CASES = "its cases"
UNFINISHED = "did not return"
BAR = 80  # percent of an equal copy that a memory-bound op should reach: short copies are slower than long ones, too
# Hopper cards do 150 to 300 operations in bf16 (a multiplication, an addition) while they move a byte. Ops with as many
# are bound by arithmetic; the others have 16 at most (audio_face_attention: one for each key of a frame).
BOUND_BY_ARITHMETIC = {
    "text_attention": "an operation a byte for each key, 127 to 512 at full size, and a softmax",
    "causal_conv": "570 operations a byte or more",
}

Row = dict[str, Any]


def main() -> None:
    args = parse_arguments()
    if not torch.cuda.is_available():
        sys.exit("bench_kernels needs an NVIDIA GPU: torch finds none here")
    if args.rows:
        bench(args.op[0], args.backends, Record(args.rows))
        return
    report = report_of(CUDA, results=[])
    print(f"{headline(report)}; microseconds, median of {RUNS}")
    with tempfile.TemporaryDirectory() as folder:
        for op in args.op:
            announce(f"{op}, stopped after {args.seconds:g} s")
            rows = in_own_process(op, args, Path(folder))
            print_rows(rows)
            report["results"] += rows
            save(report, args.json)
    print_summary(report["results"])
    hand_over(report, args.json)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", choices=registry.OPS, nargs="+", default=list(registry.OPS))
    parser.add_argument("--backends", choices=BACKENDS, nargs="+", default=list(BACKENDS))
    parser.add_argument("--seconds", type=float, default=180, help="for one op, after which it is stopped")
    parser.add_argument("--json", type=Path, help="file for the report")
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)  # where the process of one op leaves its rows
    return parser.parse_args()


def in_own_process(op: str, args: argparse.Namespace, folder: Path) -> list[Row]:
    """The rows of one op; the one it died of says so."""
    found = folder / f"{op}.json"
    failure = failure_of(__file__, "--op", op, "--rows", found, "--backends", *args.backends, seconds=args.seconds)
    rows: list[Row] = json.loads(found.read_text()) if found.exists() else []
    if failure is None:
        return rows
    if not rows or rows[-1].get("failed") != UNFINISHED:
        rows.append({"op": op, "backend": "", "workload": ""})
    rows[-1]["failed"] = failure
    return rows


class Record:
    """The rows of one op in a file that holds, at every moment, what is measured and what is under way."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, []

    @contextmanager
    def row(self, op: str, backend: str, workload: str) -> Iterator[Row]:
        """A row to fill; an exception becomes what it says: one that does not run must not hide the others."""
        row: Row = {"op": op, "backend": backend, "workload": workload, "failed": UNFINISHED}
        self.rows.append(row)
        self._write()
        try:
            yield row
            del row["failed"]
        except Exception as error:  # noqa: BLE001
            row["failed"] = f"{type(error).__name__}: {error}"
        self._write()

    def _write(self) -> None:
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(json.dumps(self.rows))
        unfinished.replace(self.path)


def bench(op: str, backends: list[str], record: Record) -> None:
    """For each backend that the op has a row for its cases, then, if those pass, one for each workload."""
    peak, copy = peak_bytes_per_second(), copy_bytes_per_second(2**32)
    cases = importlib.import_module(f"humo_rt.kernels.{op}.cases")
    for backend in BACKENDS:  # in this order, whatever the order they are asked for in
        if backend not in backends or not written(op, backend):
            continue
        with record.row(op, backend, CASES) as checked:
            run = runnable(op, backend)
        if "failed" in checked:
            continue
        for workload, shape in cases.WORKLOADS.items():
            with record.row(op, backend, workload) as row:
                inputs = cases.make_inputs(shape, torch.bfloat16, CUDA)
                moved, times = cases.bytes_moved(*inputs), microseconds(run, inputs)
                median = statistics.median(times)
                speed = moved / (median * 1e-6)
                row |= {"median": median, "fastest": min(times), "slowest": max(times), "bytes": moved}
                row |= {"percent_of_peak": 100 * speed / peak, "percent_of_copy": 100 * speed / copy}
                row["percent_of_equal_copy"] = 100 * speed / copy_bytes_per_second(moved)
                row |= {"peak_gb_per_second": peak / 1e9, "copy_gb_per_second": copy / 1e9}


def written(op: str, backend: str) -> bool:
    kernel = backend in registry.BACKENDS
    return not kernel or importlib.util.find_spec(f"humo_rt.kernels.{op}.{backend}_impl") is not None


def runnable(op: str, backend: str) -> Callable[..., Any]:
    """What to time; a kernel has passed the op's cases."""
    if backend == COMPILED:
        reference = registry.implementation(op, registry.REFERENCE)
        return torch.compile(reference, fullgraph=True, dynamic=False)
    run = registry.implementation(op, backend)
    if backend in registry.BACKENDS:
        check(op, backend, CUDA)
    return run


def print_rows(rows: list[Row]) -> None:
    for row in rows:
        name = f"{row['op']} {row['workload']}"
        if "failed" in row:
            print(f"{name:54} {row['backend']:10} {' '.join(row['failed'].split())[-160:]}")
        elif "median" in row:
            spread = f"{row['fastest']:.1f}-{row['slowest']:.1f}"
            shares = f"{row['percent_of_peak']:6.1f} % of peak {row['percent_of_copy']:6.1f} % of copy"
            shares += f" {row['percent_of_equal_copy']:6.1f} % of an equal copy"
            print(f"{name:54} {row['backend']:10} {row['median']:9.1f} ({spread:>17}) {shares}")


def print_summary(rows: list[Row]) -> None:
    """Speeds of the memory, what is not held to the bar, and what misses it or was not measured."""
    timed = [row for row in rows if "median" in row]
    if timed:
        copies = [row["copy_gb_per_second"] / 1e3 for row in timed]
        peak = timed[0]["peak_gb_per_second"] / 1e3
        print(f"peak {peak:.2f} TB/s, copy {min(copies):.2f} to {max(copies):.2f} TB/s in the ops' processes")
    for op in dict.fromkeys(row["op"] for row in timed):
        if op in BOUND_BY_ARITHMETIC:
            print(f"{op} is not bound by memory: {BOUND_BY_ARITHMETIC[op]}")
    failed = [f"{row['op']} {row['workload']} ({row['backend']})" for row in rows if "failed" in row]
    if failed:
        print(f"failed: {', '.join(failed)}")
    print(f"below {BAR} % of an equal copy: {', '.join(below_the_bar(timed)) or 'none that was measured'}")


def below_the_bar(timed: list[Row]) -> list[str]:
    """Ops and their workloads of full size where the fastest kernel of a memory-bound op misses the bar."""
    best: dict[tuple[str, str], Row] = {}
    for row in timed:
        place = row["op"], row["workload"]
        small = row["workload"].startswith("nano")
        if row["backend"] not in registry.BACKENDS or row["op"] in BOUND_BY_ARITHMETIC or small:
            continue
        best[place] = min(best.get(place, row), row, key=lambda each: each["median"])
    return [
        f"{op} {workload} ({row['backend']} {row['percent_of_equal_copy']:.1f} %)"
        for (op, workload), row in best.items()
        if row["percent_of_equal_copy"] < BAR
    ]


def copy_bytes_per_second(moved: int) -> float:
    """What a copy within the device's memory reaches that reads half of so many bytes and writes the other half.

    The faster of two kernels: PyTorch's copy, once recorded, is slower than some ops are.
    """
    source = torch.ones(max(1, moved // 8), dtype=torch.int32, device=CUDA)
    target = torch.empty_like(source)
    kernels = partial(target.copy_, source), partial(torch.bitwise_not, source, out=target)
    return 2 * source.nbytes / (min(statistics.median(microseconds(kernel)) for kernel in kernels) * 1e-6)


def peak_bytes_per_second() -> float:
    """What the memory's clock and bus width promise: two transfers in each cycle."""
    properties = torch.cuda.get_device_properties(CUDA)
    return 2 * properties.memory_clock_rate * 1e3 * properties.memory_bus_width / 8


if __name__ == "__main__":
    main()
