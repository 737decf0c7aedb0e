"""Time of every stage of a generation, end to end through ``Pipeline.generate``, MP4 included.

    python benchmarks/latency.py                                        # nano, on whatever is here
    python benchmarks/latency.py --preset humo-1.7b --weights random --steps 4 --branches batched sequential --baseline

Prints a table, then one line of JSON; ``--json`` keeps it, with a chart of the stages beside it. Inputs are noise,
never zeros. The first run of each variant warms up and is kept apart; medians are over the runs after it, in which the
variants take turns and encode their inputs anew. One more run finds them encoded: the "second call". On a GPU the
attention and the matrix products of one branch, alone, take a turn among the variants: the floor. What beats it by far
shared the card with another process while the floor was measured, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from floor import branch_work, measure_floor, token_count
from reporting import save
from stage_chart import save_stage_chart

from humo_rt.config import FPS, LATENT_CHANNELS, SAMPLE_RATE, SPATIAL_STRIDE, TEMPORAL_STRIDE, DiTConfig
from humo_rt.pipeline import Pipeline
from humo_rt.result import GenerationResult
from humo_rt.runtime.attention_backends import AUTO, CHOICES
from humo_rt.runtime.fused_block import fuse, is_fused, unfuse
from humo_rt.runtime.precision import CHOICES as PRECISIONS
from humo_rt.runtime.precision import EXACT

PROMPT = "A woman with long dark hair and round glasses is talking to the camera in front of a bookshelf."
BASELINE = "baseline"
BEYOND_THE_FLOOR = 110  # percent: sharing inputs saves some of it, and clocks drift; nothing saves more


def main() -> None:
    args = parse_arguments()
    pipelines, load = load_pipelines(args)
    pipeline = next(iter(pipelines.values()))
    report: dict[str, Any] = {"machine": machine(pipeline.device), "command": " ".join(sys.argv)}
    report["variants"], report["floor"] = measure(pipelines, args)
    first = next(iter(report["variants"].values()))
    report["cold_start"] = {"load": load, "first_generation": first["first"]["total"]}
    add_rates(pipeline.config.dit, report["variants"], report["floor"])
    if args.baseline:
        report["ratio_to_baseline"] = ratios(report["variants"])
    print_table(report)
    save(report, args.json)
    picture = args.png or (args.json and args.json.with_suffix(".png"))
    if picture:
        title = f"{first['settings']['model']} on {report['machine']['device']}, seconds per stage"
        save_stage_chart(picture, {name: v["seconds"] for name, v in report["variants"].items()}, title)
    print(json.dumps(report))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--weights", help="folder, repository or 'random'; default: the preset's own")
    parser.add_argument("--device")
    parser.add_argument("--dit-engine", help=".onnx or .engine file that runs instead of PyTorch's DiT")
    parser.add_argument("--attention-backend", choices=CHOICES, default=AUTO, help="default: the fastest here")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=[EXACT], help="several are compared")
    parser.add_argument("--offload-encoders", action="store_true", help="keep them in host memory while denoising")
    parser.add_argument("--mode", choices=["T", "TI", "TA", "TIA"], default="TIA")
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--num-frames", type=int, default=97)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--branches", nargs="+", choices=["batched", "sequential"], default=["batched"])
    parser.add_argument("--baseline", action="store_true", help="also one branch at a time on plain, eager blocks")
    parser.add_argument("--repeat", type=int, default=3, help="timed runs after the warm-up")
    parser.add_argument("--json", type=Path, help="file for the report")
    parser.add_argument("--png", type=Path, help="file for the chart; default: beside --json")
    args = parser.parse_args()
    if args.baseline and args.dit_engine:
        parser.error("--baseline runs PyTorch's DiT, which --dit-engine replaces: leave one of them out")
    if args.baseline and EXACT not in args.precision:
        parser.error(f"--baseline is compared with {EXACT}: add it to --precision")
    if args.repeat < 1:
        parser.error(f"--repeat {args.repeat} times nothing: give 1 or more")
    return args


def load_pipelines(args: argparse.Namespace) -> tuple[dict[str, Pipeline], float]:
    """By precision, the first one first; and the seconds that one took to load.

    The last precisions are loaded first: fp8 needs room for the wide weights only until they are quantised.
    """
    pipelines = {}
    for precision in reversed(args.precision):
        begin = time.perf_counter()
        pipelines[precision] = Pipeline.from_pretrained(
            args.preset,
            weights=args.weights,
            device=args.device,
            dit_engine=args.dit_engine,
            attention_backend=args.attention_backend,
            offload_encoders=args.offload_encoders,
            precision=precision,
        )
        load = time.perf_counter() - begin
    return dict(reversed(pipelines.items())), load


def measure(
    pipelines: dict[str, Pipeline], args: argparse.Namespace
) -> tuple[dict[str, dict[str, Any]], dict[str, Any] | None]:
    """By variant: one generation to warm up, ``args.repeat`` that count, and one that finds its inputs encoded.

    And the floor of one branch in milliseconds, on a GPU.
    """
    runs, floors = {}, []
    for precision, pipeline in pipelines.items():
        suffix = "" if len(pipelines) == 1 else f" {precision}"
        runs |= {f"{branches}{suffix}": (pipeline, branches) for branches in args.branches}
    if args.baseline:
        runs[BASELINE] = (pipelines[EXACT], BASELINE)
    first, results = {}, {name: [] for name in runs}
    for name, (pipeline, branches) in runs.items():
        pipeline.clear_caches()
        first[name] = generate(pipeline, args, branches)
    for _ in range(args.repeat):
        for name, (pipeline, branches) in runs.items():
            pipeline.clear_caches()
            results[name].append(generate(pipeline, args, branches))
        floors += measure_branch(next(iter(pipelines.values())), next(iter(first.values())).settings)
    again = {name: generate(pipeline, args, branches) for name, (pipeline, branches) in runs.items()}
    return {name: summary(first[name], results[name], again[name]) for name in runs}, median_floor(floors)


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


def generate(pipeline: Pipeline, args: argparse.Namespace, variant: str) -> GenerationResult:
    noise = np.random.default_rng(0)
    conditions: dict[str, Any] = {}
    if "I" in args.mode:
        conditions["image"] = noise.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    if "A" in args.mode:
        samples = noise.normal(0, 0.1, args.num_frames * SAMPLE_RATE // FPS)
        conditions["audio"] = (samples.astype(np.float32), SAMPLE_RATE)
    with tempfile.TemporaryDirectory() as folder, plain_blocks(pipeline, variant == BASELINE):
        return pipeline.generate(
            PROMPT,
            height=args.height,
            width=args.width,
            num_frames=args.num_frames,
            num_inference_steps=args.steps,
            seed=0,
            branch_batch_size=None if variant == "batched" else 1,
            output=Path(folder) / "video.mp4",
            progress=False,
            trace=True,
            **conditions,
        )


@contextmanager
def plain_blocks(pipeline: Pipeline, wanted: bool) -> Iterator[None]:
    """If ``wanted``, run the DiT unfused, eagerly and launch by launch meanwhile, on the same attention kernel."""
    if not wanted:
        yield
        return
    fused, denoiser = is_fused(pipeline.dit), pipeline.denoiser
    pipeline.denoiser = unfuse(pipeline.dit)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        pipeline.denoiser = denoiser
        if fused:
            fuse(pipeline.dit)


def measure_branch(pipeline: Pipeline, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The floor of one branch as one run of it finds it; empty where there is no GPU."""
    if pipeline.device.type != "cuda":
        return []
    blocks = getattr(pipeline.dit, "blocks", None)
    kernel = {"attention": blocks[0].self_attn.attention_function} if blocks else {}
    with torch.no_grad():
        shape = branch_shape(settings)
        return [measure_floor(pipeline.config.dit, shape, 1, pipeline.device, dtype=pipeline.dtype, **kernel)]


def median_floor(floors: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Of the runs of it, each number by itself."""
    return {key: statistics.median(floor[key] for floor in floors) for key in floors[0]} if floors else None


def branch_shape(settings: dict[str, Any]) -> tuple[int, ...]:
    """Of the latents of one guidance branch (1, C, T, H, W), reference frames included."""
    frames = (settings["num_frames"] - 1) // TEMPORAL_STRIDE + 1 + max(1, len(settings["image"]))
    size = (settings["height"] // SPATIAL_STRIDE, settings["width"] // SPATIAL_STRIDE)
    return (1, LATENT_CHANNELS, frames, *size)


def add_rates(config: DiTConfig, variants: dict[str, dict[str, Any]], floor: dict[str, Any] | None) -> None:
    """Add TFLOP/s to every variant and what its time is to the floor, both of one branch."""
    for variant in variants.values():
        work = branch_work(config, token_count(config, branch_shape(variant["settings"])))
        variant["tflops"] = work / variant["branch_forward"] / 1e12
        if floor is not None:
            variant["times_floor"] = 1000 * variant["branch_forward"] / floor["total"]
            variant["percent_of_floor"] = 100 / variant["times_floor"]


def ratios(variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """How many times faster than the baseline each other variant is, per step and in all."""
    baseline = variants[BASELINE]
    return {
        name: {
            "step": baseline["step_p50"] / variant["step_p50"],
            "total": baseline["seconds"]["total"] / variant["seconds"]["total"],
        }
        for name, variant in variants.items()
        if name != BASELINE
    }


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    cuda = device.type == "cuda"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "threads": None if cuda else torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "commit": commit.stdout.strip() or None,
    }


def print_table(report: dict[str, Any]) -> None:
    variants, cold = report["variants"], report["cold_start"]
    print(f"{report['machine']['device']}, torch {report['machine']['torch']}; seconds, median (spread)")
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
    }
    for label, (key, form) in rows.items():
        values = [v[key]["total"] if key == "second_call" else v.get(key) for v in variants.values()]
        if None not in values:
            print_row(label, [format(value, form) for value in values])
    exact = {name: v for name, v in variants.items() if v["settings"]["precision"] == EXACT}
    beaten = [name for name, v in exact.items() if v.get("percent_of_floor", 0) > BEYOND_THE_FLOOR]
    if beaten:
        print(f"{', '.join(beaten)} beat the floor: something else ran on this GPU meanwhile, measure again")
    for name, ratio in report.get("ratio_to_baseline", {}).items():
        print(f"{name} against baseline: {ratio['step']:.3f}x per step, {ratio['total']:.3f}x in all")


def print_row(label: str, cells: list[str]) -> None:
    print(f"{label:<16}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
