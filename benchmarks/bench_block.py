"""One forward of the DiT: eager, compiled block by block, on fused kernels, and both, against the floor of this card.

    python benchmarks/bench_block.py [--preset humo-1.7b] [--height 480 --width 832 --num-frames 97] [--branches 1]

The floor is self-attention and the linear layers of the same shapes alone, measured in the same run. Random weights and
inputs; keys and values of text and audio are projected before, as in a generation. Every variant's velocity is compared
with the eager one before it is timed; the variants then take turns. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from floor import measure_floor, milliseconds
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from humo_rt.config import CONDITION_CHANNELS, LATENT_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE, DiTConfig, preset
from humo_rt.model.dit import HumoDiT
from humo_rt.runtime.fused_block import fuse, unfuse
from humo_rt.weights.random_init import fill_random

ATTENTION = {
    "cudnn": [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION],
    "flash": [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION],
}
VARIANTS = {  # fused, compiled
    "eager": (False, False),
    "compiled": (False, True),
    "fused": (True, False),
    "fused + compiled": (True, True),
}


def main() -> None:
    args = parse_arguments()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("bench_block finds no NVIDIA GPU: add --device cpu --preset nano for a trial run")
    config = preset(args.preset).dit
    with torch.no_grad(), attention_order(args.attention, device):
        dit, inputs = make_dit(config, device), make_inputs(config, args, device)
        inputs["context"] = dit.project_context(inputs.pop("text_embeds"), inputs.pop("audio"))
        floor = measure_floor(config, inputs["x_BCTHW"].shape, args.runs, device)
        rows = measure_variants(dit, inputs, args)
    for row in rows:
        row["percent_of_floor"] = 100 * floor["total"] / row["median"]
    report = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "command": " ".join(sys.argv),
        "tokens": floor.pop("tokens"),
        "floor": floor,
        "results": rows,
    }
    print_table(report, args)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="humo-1.7b")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--num-frames", type=int, default=97)
    parser.add_argument("--branches", type=int, default=1, help="guidance branches in the one forward")
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=list(VARIANTS))
    parser.add_argument("--attention", choices=ATTENTION, default="cudnn", help="the SDPA backend to prefer on a GPU")
    parser.add_argument("--compile-backend", default="inductor")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the report")
    return parser.parse_args()


def attention_order(name: str, device: torch.device) -> Any:
    """What SDPA tries first; on the CPU it has no choice."""
    return sdpa_kernel(ATTENTION[name], set_priority=True) if device.type == "cuda" else nullcontext()


def make_dit(config: DiTConfig, device: torch.device) -> HumoDiT:
    with torch.device("meta"):
        dit = HumoDiT(config)
    fill_random(dit, part="dit", seed=0, dtype=torch.bfloat16, device=device)
    return dit.eval().requires_grad_(False)


def make_inputs(config: DiTConfig, args: argparse.Namespace, device: torch.device) -> dict[str, Tensor]:
    """One reference frame after the video's latent frames, as a generation with one image has it."""
    generator = torch.Generator(device).manual_seed(0)
    branches, frames = args.branches, (args.num_frames - 1) // TEMPORAL_STRIDE + 2
    size = (frames, args.height // SPATIAL_STRIDE, args.width // SPATIAL_STRIDE)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    inputs = {
        "x_BCTHW": noise(branches, LATENT_CHANNELS, *size),
        "timestep_B": torch.full((branches,), 900, device=device),
        "text_embeds": noise(branches, config.text_len, config.text_dim),
        "audio": noise(branches, frames, config.audio_window, config.audio_bands, config.audio_dim),
    }
    if config.image_injection == "channels":
        inputs["condition"] = noise(branches, CONDITION_CHANNELS, *size)
    return inputs


def measure_variants(dit: HumoDiT, inputs: dict[str, Any], args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each variant: compile time, agreement with eager, then the times of runs taken in turn."""
    device = inputs["x_BCTHW"].device
    for block in dit.blocks:
        block.compile(backend=args.compile_backend, fullgraph=True)
    expected = run_as(dit, "eager", inputs)
    rows = {}
    for name in args.variants:
        begin = time.perf_counter()
        velocity = run_as(dit, name, inputs)
        error = ((velocity - expected).norm() / expected.norm()).item()
        rows[name] = {"variant": name, "first_call_seconds": time.perf_counter() - begin, "relative_error": error}
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(args.runs):
        for name in rows:
            times[name].append(run_as(dit, name, inputs, clock=device))
    for name, row in rows.items():
        row |= {"median": statistics.median(times[name]), "fastest": min(times[name]), "slowest": max(times[name])}
    return list(rows.values())


def run_as(dit: HumoDiT, variant: str, inputs: dict[str, Any], clock: torch.device | None = None) -> Any:
    """The velocity of one forward, or its milliseconds on ``clock``."""
    fused, compiled = VARIANTS[variant]
    if fused:
        fuse(dit)
    try:
        with torch.compiler.set_stance("default" if compiled else "force_eager"):
            return dit(**inputs) if clock is None else milliseconds(lambda: dit(**inputs), clock)
    finally:
        unfuse(dit)


def print_table(report: dict[str, Any], args: argparse.Namespace) -> None:
    floor = report["floor"]
    size = f"{args.height}x{args.width}x{args.num_frames}"
    print(f"{report['device']}, torch {report['torch']}: {args.preset} {size}, {report['tokens']} tokens")
    print(f"floor {floor['total']:.1f} ms: attention {floor['attention']:.1f}, linear {floor['linear']:.1f}")
    for row in report["results"]:
        spread = f"{row['fastest']:.1f}-{row['slowest']:.1f}"
        print(
            f"{row['variant']:18} {row['median']:9.1f} ms ({spread:>17}) {row['percent_of_floor']:6.1f} % of floor, "
            f"error {row['relative_error']:.1e}, first call {row['first_call_seconds']:.1f} s"
        )


if __name__ == "__main__":
    main()
