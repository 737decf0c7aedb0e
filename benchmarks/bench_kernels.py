"""Every kernel on its real workloads: time, bytes a second, percent of the memory's peak, against PyTorch.

    python benchmarks/bench_kernels.py [--op guided_update] [--json FILE]

Needs an NVIDIA GPU. Each backend passes the op's own cases before it is timed; one that does not, or is not here, is
reported and does not stop the others. The L2 cache is overwritten before every run. "reference" is plain PyTorch,
"compiled" is torch.compile of it. Percent of peak is of what the memory's clock promises, percent of copy of what a
copy of 2 GB reaches in this run. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from humo_rt.kernels import registry
from humo_rt.kernels.testing import check

CUDA = torch.device("cuda")
WARM_UPS, RUNS = 10, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", choices=registry.OPS, nargs="+", default=list(registry.OPS))
    parser.add_argument("--json", type=Path, help="file for the report")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench_kernels needs an NVIDIA GPU: torch finds none here")
    peak, copy = peak_bytes_per_second(), copy_bytes_per_second()
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "command": " ".join(sys.argv),
        "peak_gb_per_second": peak / 1e9,
        "copy_gb_per_second": copy / 1e9,
        "results": [row for op in args.op for row in bench(op, peak, copy)],
    }
    speeds = f"peak {peak / 1e12:.2f} TB/s, copy {copy / 1e12:.2f} TB/s"
    print(f"{report['device']}, torch {report['torch']}, {speeds}; microseconds, median of {RUNS}")
    for row in report["results"]:
        if "failed" in row:
            print(f"{row['op']:38} {row['backend']:10} {row['failed'][:160]}")
            continue
        name = f"{row['op']} {row['workload']}"
        spread = f"{row['fastest']:.1f}-{row['slowest']:.1f}"
        shares = f"{row['percent_of_peak']:6.1f} % of peak {row['percent_of_copy']:6.1f} % of copy"
        print(f"{name:38} {row['backend']:10} {row['median']:8.1f} ({spread:>15}) {shares}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


def bench(op: str, peak: float, copy: float) -> list[dict[str, Any]]:
    """One row for each workload and backend, the reference included."""
    written = [name for name in registry.BACKENDS if importlib.util.find_spec(f"humo_rt.kernels.{op}.{name}_impl")]
    runs: dict[str, Callable[..., Any]] = {}
    rows: list[dict[str, Any]] = []
    for name in (*written, registry.REFERENCE):
        try:
            runs[name] = registry.implementation(op, name)
            check(op, name, CUDA)
        except Exception as error:  # noqa: BLE001  one that does not run must not hide the others
            runs.pop(name, None)
            rows.append({"op": op, "backend": name, "failed": f"{type(error).__name__}: {error}"})
    if registry.REFERENCE in runs:
        runs["compiled"] = torch.compile(runs[registry.REFERENCE], fullgraph=True, dynamic=False)
    cases = importlib.import_module(f"humo_rt.kernels.{op}.cases")
    for workload, shape in cases.WORKLOADS.items():
        inputs = cases.make_inputs(shape, torch.bfloat16, CUDA)
        moved = cases.bytes_moved(*inputs)
        for backend, run in runs.items():
            try:
                times = microseconds(run, inputs)
            except Exception as error:  # noqa: BLE001  as above
                rows.append({"op": op, "backend": backend, "failed": f"{workload}: {type(error).__name__}: {error}"})
                continue
            median = statistics.median(times)
            timing = {"median": median, "fastest": min(times), "slowest": max(times)}
            speed = moved / (median * 1e-6)
            share = {"bytes": moved, "percent_of_peak": 100 * speed / peak, "percent_of_copy": 100 * speed / copy}
            rows.append({"op": op, "workload": workload, "backend": backend, **timing, **share})
    return rows


def microseconds(run: Callable[..., Any], inputs: tuple[object, ...]) -> list[float]:
    """Times of single runs on the GPU's clock, each with a cold L2."""
    flush = torch.empty(4 * torch.cuda.get_device_properties(CUDA).L2_cache_size, dtype=torch.uint8, device=CUDA)
    for _ in range(WARM_UPS):
        run(*inputs)
    marks = []
    for _ in range(RUNS):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run(*inputs)
        end.record()
        marks.append((start, end))
    torch.cuda.synchronize()
    return [1000 * start.elapsed_time(end) for start, end in marks]


def copy_bytes_per_second() -> float:
    """What a copy within the device's memory reaches, bytes read and bytes written."""
    source = torch.ones(2**31, dtype=torch.uint8, device=CUDA)
    target = torch.empty_like(source)
    return 2 * source.nbytes / (statistics.median(microseconds(target.copy_, (source,))) * 1e-6)


def peak_bytes_per_second() -> float:
    """What the memory's clock and bus width promise: two transfers in each cycle."""
    properties = torch.cuda.get_device_properties(CUDA)
    return 2 * properties.memory_clock_rate * 1e3 * properties.memory_bus_width / 8


if __name__ == "__main__":
    main()
