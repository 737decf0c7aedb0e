"""Decoding a video from latents: diffusers, the plain decoder and the channels-last one with each convolution.

    python benchmarks/vae_decode.py [--height 480 --width 832 --num-frames 97] [--variants cuda cudnn] [--json FILE]

Needs an NVIDIA GPU. The architecture and sizes of the published models, random weights. Under those rounding errors
grow as they do not in a trained decoder: two decoders in bfloat16 that both compute the right thing differ by what
diffusers in bfloat16 differs from float32. So the measure of a variant is its own distance to float32.
Every variant runs in a process of its own, so that one that fails or hangs stops no other; each first times every
distinct convolution of the decoder alone against cuDNN's result, then decodes the whole video and is compared with
diffusers in bfloat16 and in float32. Names each run before it starts, so that one that hangs is known, and saves the
report after it; then prints tables and one line of JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from library_calls import causal_conv
from own_process import announce, failure_of
from reporting import hand_over, headline, report_of, save
from torch import Tensor

from humo_rt.config import LATENT_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE, preset
from humo_rt.kernels import registry
from humo_rt.model.vae import VideoVAE
from humo_rt.runtime.channels_last_vae import Convolve, use_channels_last
from humo_rt.weights.random_init import fill_random

CUDA = torch.device("cuda")
DIFFUSERS = "diffusers"
RUNS = 3
LAYER_RUNS = 5
SECONDS = 120  # of one variant, after which it is stopped


def main() -> None:
    args = parse_arguments()
    if not torch.cuda.is_available():
        sys.exit("vae_decode needs an NVIDIA GPU: torch finds none here")
    if args.only:
        report = run_baseline(args) if args.only == DIFFUSERS else run_variant(args.only, args)
        args.json.write_text(json.dumps(report) + "\n")
        return
    report = report_of(CUDA, results=[])
    with tempfile.TemporaryDirectory() as folder:
        for name in (DIFFUSERS, "plain", *args.variants):
            report["results"].append(in_own_process(name, args, Path(folder)))
            save(report, args.json)
    print_report(report, args)
    hand_over(report, args.json)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--num-frames", type=int, default=97)
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=list(VARIANTS))
    parser.add_argument("--pieces", type=int, nargs="+", default=[2], help="latent frames decoded at once")
    parser.add_argument("--profile", action="store_true", help="list the kernels that take the time")
    parser.add_argument("--json", type=Path, help="file for the report")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the variant of a process of its own
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # where the frames to compare with lie
    return parser.parse_args()


def in_own_process(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The report of one variant, or what it died of."""
    announce(f"{name}, stopped after {SECONDS} s")
    found = folder / f"{name.replace(' ', '_')}.json"
    size = ["--height", args.height, "--width", args.width, "--num-frames", args.num_frames, "--pieces", *args.pieces]
    size += ["--profile"] if args.profile else []
    error = failure_of(__file__, "--only", name, "--folder", folder, "--json", found, *size, seconds=SECONDS)
    report = json.loads(found.read_text()) if found.exists() else {"variant": name}
    return report if error is None else report | {"error": error}


@torch.no_grad()
def run_baseline(args: argparse.Namespace) -> dict[str, Any]:
    """diffusers as it is, in float32 without tf32 and in bfloat16; leaves both videos for the others."""
    vae, latents = make_vae(), make_latents(args)
    model = vae.autoencoder
    mean, std = vae._statistics(CUDA)
    torch.backends.cudnn.allow_tf32 = False
    model.float()
    torch.save(model.decode(latents * std + mean).sample.cpu(), args.folder / "float32.pt")
    model.bfloat16()
    z = (latents * std + mean).bfloat16()
    video = model.decode(z).sample.float()
    torch.save(video.cpu(), args.folder / "bfloat16.pt")
    report = {"variant": DIFFUSERS, "pieces": {"1": timed(lambda: model.decode(z).sample)}}
    report["decibels_to_float32"] = decibels(video, torch.load(args.folder / "float32.pt"))
    report["frames_std"] = video.std().item()
    return report


@torch.no_grad()
def run_variant(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """The convolutions alone, then the whole video in pieces of each size."""
    torch.backends.cudnn.benchmark = name.startswith("cudnn")
    vae, latents = make_vae(), make_latents(args)
    report: dict[str, Any] = {"variant": name, "pieces": {}}
    pieces = [None]
    if name != "plain":
        convolve = VARIANTS[name]()
        report["layers"] = []
        for layer in measure_layers(name, convolve, latents, args.pieces[0]):
            report["layers"].append(layer)
            args.json.write_text(json.dumps(report))  # what is known should the next one crash
        use_channels_last(vae, convolve=convolve)
        pieces = args.pieces
    announce(f"{name}: the whole video in pieces of {pieces[0]}")
    video = torch.cat(list(vae.decode_chunks(latents, pieces[0])), dim=2)
    for precision in ("bfloat16", "float32"):
        report[f"decibels_to_{precision}"] = decibels(video, torch.load(args.folder / f"{precision}.pt"))
    del video
    for piece in pieces:
        report["pieces"][str(piece)] = timed(lambda piece=piece: list(vae.decode_chunks(latents, piece)))
    if args.profile:
        report["kernels"] = profile(lambda: list(vae.decode_chunks(latents, pieces[0])))
    return report


def make_vae() -> VideoVAE:
    with torch.device("meta"):
        vae = VideoVAE(preset("humo-1.7b").vae)
    fill_random(vae.autoencoder, part="vae", seed=0, dtype=torch.bfloat16, device=CUDA)
    return vae.eval().requires_grad_(False)


def make_latents(args: argparse.Namespace) -> Tensor:
    frames = 1 + (args.num_frames - 1) // TEMPORAL_STRIDE
    shape = (1, LATENT_CHANNELS, frames, args.height // SPATIAL_STRIDE, args.width // SPATIAL_STRIDE)
    return torch.randn(shape, generator=torch.Generator(CUDA).manual_seed(0), device=CUDA)


def measure_layers(variant: str, convolve: Convolve, latents: Tensor, piece: int) -> Iterator[dict[str, Any]]:
    """Time and error of every distinct convolution of one piece of ``piece`` latent frames."""
    generator = torch.Generator(CUDA).manual_seed(0)
    for (x_shape, w_shape, added), count in distinct_convolutions(latents, piece).items():
        x = torch.randn(x_shape, generator=generator, device=CUDA, dtype=torch.bfloat16)
        for edge in (0, -1):
            x[:, :, edge] = 0
            x[:, :, :, edge] = 0
        weight = torch.randn(w_shape, generator=generator, device=CUDA) * (w_shape[1:].numel() ** -0.5)
        weight = weight.bfloat16()
        bias = torch.randn(w_shape[0], generator=generator, device=CUDA, dtype=torch.bfloat16)
        out_shape = (*x_shape[:1], x_shape[1] - w_shape[1] + 1, *x_shape[2:4], w_shape[0])
        residual = torch.randn(out_shape, generator=generator, device=CUDA, dtype=torch.bfloat16) if added else None
        name = (
            f"{w_shape[4]}-{w_shape[0]} {'x'.join(map(str, w_shape[1:4]))} of {out_shape[1]}x{x_shape[2]}x{x_shape[3]}"
        )
        row = {"layer": name + (" + residual" if added else ""), "count": count}
        announce(f"{variant}: {row['layer']}")
        work = 2 * out_shape[1] * (x_shape[2] - 2) * (x_shape[3] - 2) * weight.numel()
        expected = causal_conv(x, weight, bias, residual).float()
        run = functools.partial(convolve, x, weight, bias, residual)
        row["relative_error"] = ((run() - expected).norm() / expected.norm()).item()
        del expected
        row["milliseconds"] = statistics.median(clock(run, LAYER_RUNS))
        row["tflops"] = work / row["milliseconds"] / 1e9
        yield row


def distinct_convolutions(latents: Tensor, piece: int) -> Counter:
    """Shapes of input and kernel and whether a residual is added, with their number, from a decode without numbers."""
    found: Counter = Counter()

    def record(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
        found[x.shape, weight.shape, residual is not None] += 1
        return x.new_empty((x.shape[0], x.shape[1] - weight.shape[1] + 1, *x.shape[2:4], weight.shape[0]))

    with torch.device("meta"):
        vae = use_channels_last(VideoVAE(preset("humo-1.7b").vae), convolve=record)
        caches = vae.empty_decoder_caches()
        vae.decode_piece(torch.empty_like(latents[:, :, :1], device="meta"), caches, first=True)
        found.clear()
        vae.decode_piece(torch.empty_like(latents[:, :, :piece], device="meta"), caches, first=False)
    return found


def from_triton(positions: int, stages: int, warps: int) -> Convolve:
    from humo_rt.kernels.causal_conv.triton_impl import Tile, run

    return functools.partial(run, tile=Tile(positions, stages, warps))


def from_cuda(*, shared_columns: bool) -> Convolve:
    return functools.partial(registry.implementation("causal_conv", "cuda"), shared_columns=shared_columns)


VARIANTS: dict[str, Callable[[], Convolve]] = {
    "cuda": lambda: from_cuda(shared_columns=True),
    "cuda separate": lambda: from_cuda(shared_columns=False),
    "cudnn": lambda: causal_conv,
    "triton 128 3 4": lambda: from_triton(128, 3, 4),
    "triton 256 3 8": lambda: from_triton(256, 3, 8),
}


def decibels(video: Tensor, expected: Tensor) -> float:
    """Peak signal to noise ratio over the range [-1, 1], both clamped, a frame at a time."""
    frames = zip(video.unbind(2), expected.unbind(2), strict=True)
    errors = [(a.clamp(-1, 1) - b.to(a.device).clamp(-1, 1)).square().mean() for a, b in frames]
    return (10 * torch.log10(4 / torch.stack(errors).mean())).item()


def timed(run: Callable[[], Any]) -> dict[str, float]:
    """Milliseconds after a first call, and the memory a call needs at its peak."""
    torch.cuda.reset_peak_memory_stats()
    times = clock(run, RUNS)
    peak = torch.cuda.max_memory_allocated() / 2**30
    return {"median": statistics.median(times), "fastest": min(times), "slowest": max(times), "peak_gib": peak}


def clock(run: Callable[[], Any], runs: int) -> list[float]:
    times = []
    run()
    for _ in range(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return times


def profile(run: Callable[[], Any]) -> list[dict[str, Any]]:
    """The kernels that take the most time, in milliseconds of one run."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as recorded:
        run()
        torch.cuda.synchronize()
    events = sorted(recorded.key_averages(), key=lambda event: -event.self_device_time_total)
    return [
        {"kernel": event.key[:90], "calls": event.count, "milliseconds": event.self_device_time_total / 1e3}
        for event in events[:16]
    ]


def print_report(report: dict[str, Any], args: argparse.Namespace) -> None:
    print(f"{headline(report)}; {args.num_frames} frames {args.height}x{args.width}")
    for row in report["results"]:
        if "error" in row:
            print(f"{row['variant']:16} failed: {row['error']}")
        for piece, time in row.get("pieces", {}).items():
            spread = f"{time['fastest']:.0f}-{time['slowest']:.0f}"
            print(
                f"{row['variant']:16} piece {piece:>4} {time['median']:8.1f} ms ({spread}) {time['peak_gib']:6.2f} GiB"
            )
        quality = {key.removeprefix("decibels_to_"): row[key] for key in row if key.startswith("decibels")}
        if quality:
            print(f"{'':16} dB to " + ", ".join(f"{name} {value:.1f}" for name, value in quality.items()))
    layers: dict[str, dict[str, Any]] = {}
    for row in report["results"]:
        for layer in row.get("layers", ()):
            layers.setdefault(layer["layer"], {})[row["variant"]] = layer
    for name, by_variant in layers.items():
        print(f"{next(iter(by_variant.values()))['count']:2} x {name}")
        for variant, layer in by_variant.items():
            numbers = f"{layer['milliseconds']:8.3f} ms {layer['tflops']:6.0f} TFLOP/s"
            print(f"     {variant:16} {numbers}  relative error {layer['relative_error']:.1e}")
    for row in report["results"]:
        for kernel in row.get("kernels", ()):
            print(f"{row['variant']:16} {kernel['milliseconds']:8.2f} ms {kernel['calls']:5} x {kernel['kernel']}")


if __name__ == "__main__":
    main()
