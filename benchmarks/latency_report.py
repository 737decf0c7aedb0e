"""The numbers of ``latency`` and its table: what runs measured becomes medians, rates and rows. Measures nothing."""

from __future__ import annotations

import statistics
from typing import Any

from floor import branch_work, token_count
from reporting import headline

from humo_rt.config import LATENT_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE, DiTConfig
from humo_rt.result import GenerationResult

BEYOND_THE_FLOOR = 110  # percent: sharing inputs saves some of it, and clocks drift; more only small branches save


def summary(first: GenerationResult, results: list[GenerationResult], again: GenerationResult) -> dict[str, Any]:
    """The numbers of one variant; seconds unless the name says otherwise."""
    traces = [result.trace for result in results]
    names = list(traces[0].stages)
    stages = {name: statistics.median(trace.stages[name] for trace in traces) for name in names}
    spread = {name: max(t.stages[name] for t in traces) - min(t.stages[name] for t in traces) for name in names}
    peaks = [trace.peak_memory for trace in traces if trace.peak_memory is not None]
    return {
        "seconds": stages,
        "spread": spread,
        "first": first.timings,
        "second_call": again.timings,
        "second_call_beside_denoising": again.timings["total"] - again.timings["denoise"],
        "step_p50": statistics.median(trace.step_p50 for trace in traces),
        "step_p90": statistics.median(trace.step_p90 for trace in traces),
        "branches": statistics.fmean(traces[0].branches),
        "branch_forward": statistics.median(trace.branch_forward for trace in traces),
        "real_time_factor": results[0].duration / stages["total"],
        "peak_memory_gib": max(peaks) / 2**30 if peaks else None,
        "settings": results[-1].settings,
    }


def median_floor(floors: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the runs of it, each number by itself."""
    return {key: statistics.median(floor[key] for floor in floors) for key in floors[0]}


def branch_shape(settings: dict[str, Any]) -> tuple[int, ...]:
    """Of the latents of one guidance branch (1, C, T, H, W), reference frames included."""
    frames = (settings["num_frames"] - 1) // TEMPORAL_STRIDE + 1 + max(1, len(settings["image"]))
    size = (settings["height"] // SPATIAL_STRIDE, settings["width"] // SPATIAL_STRIDE)
    return (1, LATENT_CHANNELS, frames, *size)


def add_rates(config: DiTConfig, variants: dict[str, dict[str, Any]], floors: dict[str, dict[str, Any]]) -> None:
    """Add TFLOP/s to every variant and what its time is to its own floor, both of one branch."""
    for variant in variants.values():
        work = branch_work(config, token_count(config, branch_shape(variant["settings"])))
        variant["tflops"] = work / variant["branch_forward"] / 1e12
        variant["times_floor"] = 1000 * variant["branch_forward"] / floors[variant["floor"]]["total"]
        variant["percent_of_floor"] = 100 / variant["times_floor"]


def ratios(variants: dict[str, dict[str, Any]], baseline_name: str) -> dict[str, dict[str, float]]:
    """How many times faster than the baseline each other variant is, per step and in all."""
    baseline = variants[baseline_name]
    return {
        name: {
            "step": baseline["step_p50"] / variant["step_p50"],
            "total": baseline["seconds"]["total"] / variant["seconds"]["total"],
        }
        for name, variant in variants.items()
        if name != baseline_name
    }


def print_table(report: dict[str, Any]) -> None:
    variants, cold = report["variants"], report["cold_start"]
    print(f"{headline(report)}; seconds, median (spread)")
    print(f"cold start {cold['load'] + cold['first_generation']:.3f}: loading {cold['load']:.3f}, first generation")
    print(f"{'stage':<16}" + "".join(f"{name:>22}" for name in variants))
    for stage in next(iter(variants.values()))["seconds"]:
        print_row(stage, [f"{v['seconds'][stage]:.3f} ({v['spread'][stage]:.3f})" for v in variants.values()])
    rows = {
        "step p50": ("step_p50", ".4f"),
        "step p90": ("step_p90", ".4f"),
        "branch forward": ("branch_forward", ".4f"),
        "second call": ("second_call", ".3f"),
        "  no denoising": ("second_call_beside_denoising", ".3f"),
        "real time x": ("real_time_factor", ".4f"),
        "peak GiB": ("peak_memory_gib", ".2f"),
        "TFLOP/s": ("tflops", ".3g"),
        "times floor": ("times_floor", ".3f"),
        "% of floor": ("percent_of_floor", ".1f"),
        "latents error": ("latents_error", ".2e"),
    }
    for label, (key, form) in rows.items():
        values = [v[key]["total"] if key == "second_call" else v.get(key) for v in variants.values()]
        if None not in values:
            print_row(label, [format(value, form) for value in values])
    print_floors(report)
    print_agreement(report["agreement"])
    for name, ratio in report.get("ratio_to_baseline", {}).items():
        print(f"{name} against baseline: {ratio['step']:.3f}x per step, {ratio['total']:.3f}x in all")


def print_floors(report: dict[str, Any]) -> None:
    """Which variants are held to which floor."""
    for name, floor in report["floors"].items():
        held = ", ".join(variant for variant, v in report["variants"].items() if v["floor"] == name)
        parts = f"attention {floor['attention']:.2f}, products {floor['linear']:.2f}"
        print(f"floor of {held}: {floor['total']:.2f} ms a branch ({name}: {parts})")
    beaten = [name for name, v in report["variants"].items() if v["percent_of_floor"] > BEYOND_THE_FLOOR]
    if beaten:
        print(f"{', '.join(beaten)} beat the floor of one branch alone: several fill this machine better than one,")
        print("  or, where one fills it, something else ran on it meanwhile: then measure again")


def print_agreement(agreement: dict[str, Any]) -> None:
    """What was compared, and what is wrong with it."""
    if "skipped" in agreement:
        print(f"latents not compared: {agreement['skipped']}")
        return
    if "failed" in agreement:
        print(f"LATENTS NOT COMPARED: {agreement['failed']}")
        return
    bound = f"an exact variant may err {agreement['allowed']:.2e}, the reference errs {agreement['reference']:.2e}"
    print(f"latents after {agreement['steps']} steps against the same with more digits: {bound}")
    if agreement["exceeded"]:
        print(f"NOT EXACT: {', '.join(agreement['exceeded'])}")


def print_row(label: str, cells: list[str]) -> None:
    print(f"{label:<16}" + "".join(f"{cell:>22}" for cell in cells))
