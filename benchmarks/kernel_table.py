"""What ``bench_kernels`` prints of its rows: one line each, then what they say of the bar and of the others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from humo_rt.kernels import registry

# Percent of a copy that a memory-bound op should reach.
BAR = 80
WAYS = {"in single runs": ("median", "percent_of_copy"), "in a row": ("in_a_row", "percent_of_copy_in_a_row")}
# Hopper cards do 150 to 300 operations in bf16 (a multiplication, an addition) while they move a byte. What has as many
# is bound by arithmetic: a whole op, or one of its workloads. Attention has one for each key, of text 127 in a
# generation; the others have 16 at most.
BOUND_BY_ARITHMETIC = {
    "causal_conv": "570 operations a byte or more",
    "text_attention humo-1.7b 480x832 full text": "512 operations a byte",
}

Row = dict[str, Any]


def print_rows(rows: list[Row]) -> None:
    for row in rows:
        name = f"{row['op']} {row['workload']}"
        said = row.get("failed") or row.get("absent")
        if said:
            print(f"{name:54} {row['backend']:10} {' '.join(said.split())[-160:]}")
        elif "median" in row:
            spread = f"{row['fastest']:.1f}-{row['slowest']:.1f}"
            speeds = f"{row['gb_per_second']:6.0f} GB/s {row['percent_of_peak']:6.1f} % of peak"
            speeds += f" {row['percent_of_copy']:6.1f} % of copy"
            if "in_a_row" in row:
                speeds += f"; in a row {row['in_a_row']:9.1f} {row['percent_of_copy_in_a_row']:6.1f} %"
            print(f"{name:54} {row['backend']:10} {row['median']:9.1f} ({spread:>17}) {speeds}{described(row)}")


def described(row: Row) -> str:
    """Whose calls a row of a library is of, and what they are given otherwise than the op."""
    differs = f", with {row['differs']}" if "differs" in row else ""
    return f" {row['library']}{differs}" if "library" in row else ""


def print_summary(rows: list[Row]) -> None:
    """Speeds of the memory, what is not held to the bar, and what misses it or was not measured."""
    timed = [row for row in rows if "median" in row and "failed" not in row]
    if timed:
        copies = [row["copy_gb_per_second"] / 1e3 for row in timed]
        peak = timed[0]["peak_gb_per_second"] / 1e3
        print(f"peak {peak:.2f} TB/s, copy {min(copies):.2f} to {max(copies):.2f} TB/s in the ops' processes")
    print_ratios(timed)
    for name in dict.fromkeys(name for row in timed for name in names_of(row)):
        if name in BOUND_BY_ARITHMETIC:
            print(f"{name} is not bound by memory: {BOUND_BY_ARITHMETIC[name]}")
    failed = [f"{row['op']} {row['workload']} ({row['backend']})" for row in rows if "failed" in row]
    if failed:
        print(f"failed: {', '.join(failed)}")
    for way, (time, share) in WAYS.items():
        below = below_the_bar(timed, time, share)
        print(f"below {BAR} % of copy {way}: {', '.join(below) or 'none that was measured'}")


def print_ratios(timed: list[Row]) -> None:
    """For every workload how many times as long as the fastest kernel each of the others takes, libraries at best."""
    for (op, workload), kernel in fastest(row for row in timed if row["backend"] in registry.BACKENDS).items():
        others = [row for row in timed if (row["op"], row["workload"]) == (op, workload)]
        ratios = []
        for backend in dict.fromkeys(row["backend"] for row in others if row["backend"] not in registry.BACKENDS):
            best = min((row for row in others if row["backend"] == backend), key=lambda row: row["median"])
            ratios.append(f"{backend}{described(best)} {best['median'] / kernel['median']:.2f}x")
        if ratios:
            print(f"{op} {workload}: {kernel['backend']} 1x, {', '.join(ratios)}")


def fastest(rows: Iterable[Row], time: str = "median") -> dict[tuple[str, str], Row]:
    """Of the rows of each op and workload, by the time of that name."""
    best: dict[tuple[str, str], Row] = {}
    for row in rows:
        place = row["op"], row["workload"]
        best[place] = min(best.get(place, row), row, key=lambda each: each[time])
    return best


def names_of(row: Row) -> tuple[str, str]:
    """Of the op, and of its workload."""
    return row["op"], f"{row['op']} {row['workload']}"


def below_the_bar(timed: list[Row], time: str, share: str) -> list[str]:
    """Ops and their workloads of full size where the fastest kernel of a memory-bound op misses the bar."""
    kernels = (
        row
        for row in timed
        if row["backend"] in registry.BACKENDS
        and not BOUND_BY_ARITHMETIC.keys() & set(names_of(row))
        and not row["workload"].startswith("nano")
    )
    return [
        f"{op} {workload} ({row['backend']} {row[share]:.1f} %)"
        for (op, workload), row in fastest(kernels, time).items()
        if row[share] < BAR
    ]
