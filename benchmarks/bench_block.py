"""The branches of one denoising step: the release's order of operations and the runtime's, against the card's floor.

    python benchmarks/bench_block.py [--preset humo-1.7b] [--height 480 --width 832 --num-frames 97] [--branches 4]

"eager" runs plain blocks, one branch at a time; "fused" is what `Pipeline` runs. The floor is self-attention and the
linear layers of the same shapes alone, measured in the same run, times the branches. Random weights and inputs; keys
and values of text and audio are projected before, as in a generation. Every variant's velocities are compared with the
eager ones before it is timed; the variants then take turns. One that fails is reported and does not stop the others.
Prints every run at once, a table at the end, then one line of JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from floor import measure_floor, milliseconds
from own_process import announce
from reporting import hand_over, headline, report_of
from torch import Tensor

from humo_rt.config import LATENT_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE, DiTConfig, ModelConfig, preset
from humo_rt.model.dit import HumoDiT
from humo_rt.runtime import attention_backends, matmul_backends
from humo_rt.runtime.fusing import fuse, unfuse
from humo_rt.runtime.matmul_kernels import TORCH
from humo_rt.runtime.replay import ReplayedDiT
from humo_rt.sampling.branches import Conditions, GuidedModel
from humo_rt.sampling.guidance import guidance_table
from humo_rt.weights.random_init import fill_random


class Variant(NamedTuple):
    fused: bool = False
    matmul: str | None = None  # None: the backend of the command
    compiled: bool = False
    replayed: bool = False
    branch_batch_size: int | None = None


VARIANTS = {
    "eager": Variant(branch_batch_size=1),
    "eager batched": Variant(),
    "compiled": Variant(compiled=True, branch_batch_size=1),
    "fused": Variant(fused=True),
    "fused torch": Variant(fused=True, matmul=TORCH),
    "fused one by one": Variant(fused=True, branch_batch_size=1),
    "fused compiled": Variant(fused=True, compiled=True),
    "fused replayed": Variant(fused=True, replayed=True),
    "replayed one by one": Variant(fused=True, replayed=True, branch_batch_size=1),
}
USUAL = ["eager", "compiled", "fused", "fused one by one", "fused compiled"]
EAGER = VARIANTS["eager"]
TIMESTEP = 900


def main() -> None:
    args = parse_arguments()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("bench_block finds no NVIDIA GPU: add --device cpu --preset nano for a trial run")
    config = preset(args.preset)
    dit_config = dataclasses.replace(config.dit, num_layers=args.layers or config.dit.num_layers)
    with torch.no_grad():
        dit = make_dit(dit_config, device)
        backend = attention_backends.choose(args.attention_backend, device, torch.bfloat16, dit_config.head_dim)
        attention_backends.use_attention(dit, backend)
        noise = make_noise(args, device)
        names = branch_names(config, args.branches)
        kernel = dit.blocks[0].self_attn.attention_function
        args.matmul_backend = matmul_backends.choose(args.matmul_backend, device, torch.bfloat16, dit_config.dim)
        kernels = {"attention": kernel, "matmul_backend": args.matmul_backend}
        floor = measure_floor(dit_config, noise.shape, args.runs, device, **kernels)
        rows = measure_variants(dit, make_conditions(dit_config, noise), noise, names, args)
    report = report_of(
        device,
        attention_backend=backend,
        matmul_backend=args.matmul_backend,
        layers=dit_config.num_layers,
        branches=names,
        tokens=floor.pop("tokens"),
        floor_of_a_branch=floor,
        results=compared(rows, len(names) * floor["total"]),
    )
    print_table(report, args)
    hand_over(report, args.json)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="humo-1.7b")
    parser.add_argument("--layers", type=int, help="run this many blocks only, against the floor of as many")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--num-frames", type=int, default=97)
    parser.add_argument("--branches", type=int, help="the first so many of the model's guidance; default: all")
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=USUAL)
    parser.add_argument("--attention-backend", choices=attention_backends.CHOICES, default=attention_backends.AUTO)
    parser.add_argument("--matmul-backend", choices=matmul_backends.CHOICES, default=matmul_backends.AUTO)
    parser.add_argument("--compile-backend", default="inductor")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the report")
    return parser.parse_args()


def make_dit(config: DiTConfig, device: torch.device) -> HumoDiT:
    with torch.device("meta"):
        dit = HumoDiT(config)
    fill_random(dit, part="dit", seed=0, dtype=torch.bfloat16, device=device)
    return dit.eval().requires_grad_(False)


def make_noise(args: argparse.Namespace, device: torch.device) -> Tensor:
    """Latents with one reference frame after the video's, as a generation with one image has them."""
    frames = (args.num_frames - 1) // TEMPORAL_STRIDE + 2
    size = (frames, args.height // SPATIAL_STRIDE, args.width // SPATIAL_STRIDE)
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn((1, LATENT_CHANNELS, *size), generator=generator, device=device)


def make_conditions(config: DiTConfig, noise: Tensor) -> Conditions:
    """Text, image and sound of noise: a prompt of usual length, and a negative one as long as Wan's."""
    generator = torch.Generator(noise.device).manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=noise.device)

    longest = config.text_len
    audio = (noise.shape[2] - 1, config.audio_window, config.audio_bands, config.audio_dim)
    channels = config.image_injection == "channels"
    return Conditions(
        text_embeds=[random(min(100, longest), config.text_dim)],
        negative_embeds=random(min(126, longest), config.text_dim),
        audio=random(1, *audio),
        reference_latents=random(1, LATENT_CHANNELS, 1, *noise.shape[3:]),
        grey_latents=random(*noise.shape[1:]) if channels else None,
    )


def branch_names(config: ModelConfig, count: int | None) -> list[str]:
    """Of the guidance with every condition, at a late timestep."""
    names = list(guidance_table(config, "TIA").at(TIMESTEP))
    if count is not None and not 1 <= count <= len(names):
        sys.exit(f"--branches {count}: {config.name} has {len(names)}")
    return names[:count]


def measure_variants(
    dit: HumoDiT, conditions: Conditions, noise: Tensor, names: list[str], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row for each variant: first call, agreement with eager, then the times of runs taken in turn."""
    for block in dit.blocks:
        block.compile(backend=args.compile_backend, fullgraph=True)
    expected = Run(dit, EAGER, conditions, noise, names).velocities()
    rows: dict[str, dict[str, Any]] = {name: {"variant": name} for name in args.variants}
    times: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(1 + args.runs):
        for name, row in rows.items():
            if "failed" in row:
                continue
            try:
                matmul_backends.use_matmul(dit, VARIANTS[name].matmul or args.matmul_backend)
                with Run(dit, VARIANTS[name], conditions, noise, names) as run:
                    if turn == 0:
                        begin = time.perf_counter()
                        error = (run.velocities() - expected).norm() / expected.norm()
                        row |= {"relative_error": error.item(), "first_call_seconds": time.perf_counter() - begin}
                    else:
                        times[name].append(milliseconds(run.velocities, noise.device))
                        announce(f"{name}: {times[name][-1]:.1f} ms")
                        row["peak_gib"] = run.peak_gib()
            except Exception as error:  # noqa: BLE001  one that does not run must not hide the others
                row["failed"] = f"{type(error).__name__}: {error}"
                unfuse(dit)
    for name, row in rows.items():
        if times[name]:
            row |= {"median": statistics.median(times[name]), "fastest": min(times[name]), "slowest": max(times[name])}
    return list(rows.values())


class Run:
    """The branches of a step as one variant computes them; the DiT is plain again after the context."""

    replays: ReplayedDiT | None = None  # kept between runs, as a pipeline keeps it

    def __init__(self, dit: HumoDiT, variant: Variant, conditions: Conditions, noise: Tensor, names: list[str]) -> None:
        self.dit, self.variant, self.noise, self.names = dit, variant, noise, names
        if variant.fused:
            fuse(dit)
        if variant.replayed and Run.replays is None:
            Run.replays = ReplayedDiT(dit, always=True)
        model = Run.replays if variant.replayed else dit
        self.guided = GuidedModel(model, conditions, noise, branch_batch_size=variant.branch_batch_size)
        self.guided.prepare([dict.fromkeys(names, 1.0)])
        if variant.replayed:
            self.velocities()  # records, or fills what was recorded
        if noise.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(noise.device)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        unfuse(self.dit)

    def velocities(self) -> Tensor:
        with torch.compiler.set_stance("default" if self.variant.compiled else "force_eager"):
            return self.guided.branches(self.noise, TIMESTEP, self.names)

    def peak_gib(self) -> float | None:
        cuda = self.noise.device.type == "cuda"
        return torch.cuda.max_memory_allocated(self.noise.device) / 2**30 if cuda else None


def compared(rows: list[dict[str, Any]], floor: float) -> list[dict[str, Any]]:
    """Each row with its time as a multiple of the floor, and the eager variant's as a multiple of its time."""
    eager = next((row.get("median") for row in rows if row["variant"] == "eager"), None)
    for row in rows:
        if "median" in row:
            row["times_floor"] = row["median"] / floor
            row["eager_over_this"] = eager and eager / row["median"]
    return rows


def print_table(report: dict[str, Any], args: argparse.Namespace) -> None:
    floor = report["floor_of_a_branch"]
    size = f"{args.height}x{args.width}x{args.num_frames}"
    print(f"{headline(report)}: {args.preset} {size}, {report['tokens']} tokens, ", end="")
    backends = f"attention by {report['attention_backend']}, products by {report['matmul_backend']}"
    print(f"{report['layers']} blocks, {backends}, branches {' '.join(report['branches'])}")
    print(f"floor {floor['total']:.1f} ms a branch: attention {floor['attention']:.1f}, linear {floor['linear']:.1f}")
    for row in report["results"]:
        if "failed" in row:
            print(f"{row['variant']:20} {row['failed'][:160]}")
            continue
        spread = f"{row['fastest']:.1f}-{row['slowest']:.1f}"
        ratio = "" if row["eager_over_this"] is None else f"{row['eager_over_this']:6.3f}x eager, "
        peak = "" if row["peak_gib"] is None else f"peak {row['peak_gib']:.1f} GiB, "
        print(
            f"{row['variant']:20} {row['median']:9.1f} ms ({spread:>17}) {row['times_floor']:6.3f} of floor, {ratio}"
            f"{peak}error {row['relative_error']:.1e}, first call {row['first_call_seconds']:.1f} s"
        )


if __name__ == "__main__":
    main()
