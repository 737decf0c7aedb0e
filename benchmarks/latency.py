"""Time of every stage of a generation, end to end through ``Pipeline.generate``, MP4 included.

    python benchmarks/latency.py                                        # nano, on whatever is here
    python benchmarks/latency.py --preset humo-1.7b --weights random --steps 4 --branches batched sequential

Prints a table, then one line of JSON (also written to ``--json``). Inputs are noise, never zeros. The first run of each
variant warms up and is reported as ``cold``; the medians are over the others.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from humo_rt.config import FPS, SAMPLE_RATE
from humo_rt.pipeline import Pipeline
from humo_rt.result import GenerationResult

PROMPT = "A woman with long dark hair and round glasses is talking to the camera in front of a bookshelf."


def main() -> None:
    args = parse_arguments()
    pipeline = Pipeline.from_pretrained(
        args.preset, weights=args.weights, device=args.device, dit_engine=args.dit_engine
    )
    report: dict[str, Any] = {"machine": machine(pipeline.device), "command": " ".join(sys.argv), "variants": {}}
    for branches in args.branches:
        report["variants"][branches] = measure(pipeline, args, branches)
    print_table(report)
    line = json.dumps(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    print(line)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--weights", help="folder, repository or 'random'; default: the preset's own")
    parser.add_argument("--device")
    parser.add_argument("--dit-engine", help=".onnx or .engine file that runs instead of PyTorch's DiT")
    parser.add_argument("--mode", choices=["T", "TI", "TA", "TIA"], default="TIA")
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--num-frames", type=int, default=97)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--branches", nargs="+", choices=["batched", "sequential"], default=["batched"])
    parser.add_argument("--repeat", type=int, default=3, help="timed runs after the warm-up")
    parser.add_argument("--json", type=Path, help="file for the report")
    return parser.parse_args()


def measure(pipeline: Pipeline, args: argparse.Namespace, branches: str) -> dict[str, Any]:
    """Warm up once, then time ``args.repeat`` generations."""
    cold = generate(pipeline, args, branches).timings
    if pipeline.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    results = [generate(pipeline, args, branches) for _ in range(args.repeat)]
    settings = results[-1].settings
    stages = {name: statistics.median(r.timings[name] for r in results) for name in results[0].timings}
    spread = {name: max(r.timings[name] for r in results) - min(r.timings[name] for r in results) for name in stages}
    return {
        "seconds": stages,
        "spread": spread,
        "cold": cold,
        "seconds_per_step": stages["denoise"] / settings["num_inference_steps"],
        "real_time_factor": results[-1].duration / stages["total"],
        "peak_memory_gib": torch.cuda.max_memory_allocated() / 2**30 if pipeline.device.type == "cuda" else None,
        "settings": settings,
    }


def generate(pipeline: Pipeline, args: argparse.Namespace, branches: str) -> GenerationResult:
    noise = np.random.default_rng(0)
    conditions: dict[str, Any] = {}
    if "I" in args.mode:
        conditions["image"] = noise.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    if "A" in args.mode:
        samples = noise.normal(0, 0.1, args.num_frames * SAMPLE_RATE // FPS)
        conditions["audio"] = (samples.astype(np.float32), SAMPLE_RATE)
    with tempfile.TemporaryDirectory() as folder:
        return pipeline.generate(
            PROMPT,
            height=args.height,
            width=args.width,
            num_frames=args.num_frames,
            num_inference_steps=args.steps,
            seed=0,
            branch_batch_size=None if branches == "batched" else 1,
            output=Path(folder) / "video.mp4",
            progress=False,
            **conditions,
        )


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
    variants = report["variants"]
    print(f"{report['machine']['device']}, torch {report['machine']['torch']}; seconds, median (spread)")
    print(f"{'stage':<12}" + "".join(f"{name:>22}" for name in variants))
    for stage in next(iter(variants.values()))["seconds"]:
        cells = (f"{v['seconds'].get(stage, 0):.3f} ({v['spread'].get(stage, 0):.3f})" for v in variants.values())
        print(f"{stage:<12}" + "".join(f"{cell:>22}" for cell in cells))
    print(f"{'per step':<12}" + "".join(f"{v['seconds_per_step']:>22.3f}" for v in variants.values()))
    print(f"{'real time x':<12}" + "".join(f"{v['real_time_factor']:>22.4f}" for v in variants.values()))


if __name__ == "__main__":
    main()
