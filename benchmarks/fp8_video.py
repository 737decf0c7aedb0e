"""How far videos in precision "fp8" are from exact ones: PSNR and SSIM, same seed, on the trained nano model.

    python benchmarks/fp8_video.py [--preset nano] [--videos 3] [--attention-backends auto cudnn-fp8]

The shipped portrait speaks the shipped recordings. A second exact video from another seed says how far apart videos of
one prompt are. Scores of lips, person and caption: ``python -m training.evaluate --precision fp8``.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from guidance_reuse import PROMPT, SAMPLES
from reporting import hand_over, report_of
from torch import Tensor

from humo_rt.pipeline import Pipeline
from humo_rt.runtime.attention_backends import AUTO, CHOICES, CUDNN_FP8
from humo_rt.runtime.placement import chosen_device
from humo_rt.runtime.precision import EXACT, FP8

# The usual constants of SSIM, for values in 0..1.
SSIM_WINDOW, SSIM_SIGMA, SSIM_C1, SSIM_C2 = 11, 1.5, 0.01**2, 0.03**2


def main() -> None:
    args = parse_arguments()
    audios = sorted(SAMPLES.glob("*.wav"))[: args.videos]
    exact = make_videos(args, audios, precision=EXACT)
    rows = {"exact, another seed": compared(make_videos(args, audios, precision=EXACT, seed=1), exact)}
    for backend in args.attention_backends:
        name = f"{FP8} {backend}"
        try:
            rows[name] = compared(make_videos(args, audios, precision=FP8, attention_backend=backend), exact)
        except (ValueError, RuntimeError) as error:  # one that does not run must not hide the others
            rows[name] = {"failed": f"{type(error).__name__}: {error}"}
    for name, row in rows.items():
        print(f"{name:24}" + (row.get("failed") or f"PSNR {row['psnr']:6.2f} dB  SSIM {row['ssim']:.4f}"))
    report = report_of(chosen_device(args.device), videos=len(audios), rows=rows)
    hand_over(report, args.json)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--weights")
    parser.add_argument("--device")
    parser.add_argument("--videos", type=int, default=3)
    parser.add_argument("--num-frames", type=int, default=49)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--attention-backends", choices=CHOICES, nargs="+", default=["cudnn", CUDNN_FP8])
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def make_videos(
    args: argparse.Namespace, audios: list[Path], *, precision: str, attention_backend: str = AUTO, seed: int = 0
) -> list[Tensor]:
    """(F, 3, H, W) in 0..1 each."""
    pipeline = Pipeline.from_pretrained(
        args.preset,
        weights=args.weights,
        device=args.device,
        precision=precision,
        attention_backend=attention_backend,
    )
    videos = []
    for audio in audios:
        result = pipeline.generate(
            PROMPT,
            image=SAMPLES / "portrait.png",
            audio=audio,
            num_frames=args.num_frames,
            num_inference_steps=args.steps,
            seed=seed,
        )
        videos.append(torch.from_numpy(np.ascontiguousarray(result.frames)).permute(0, 3, 1, 2).float() / 255)
    return videos


def compared(made: list[Tensor], exact: list[Tensor]) -> dict[str, Any]:
    pairs = list(zip(made, exact, strict=True))
    errors = [(a - b).square().mean().item() for a, b in pairs]
    psnrs = [-10 * math.log10(max(error, 1e-10)) for error in errors]
    return {"psnr": statistics.fmean(psnrs), "ssim": statistics.fmean(ssim(a, b) for a, b in pairs)}


def ssim(a_FCHW: Tensor, b_FCHW: Tensor) -> float:
    """Structural similarity (Wang et al. 2004): a Gaussian window, each channel alone, mean over everything."""
    positions = torch.arange(SSIM_WINDOW, dtype=torch.float32) - SSIM_WINDOW // 2
    line = torch.exp(-positions.square() / (2 * SSIM_SIGMA**2))
    window = (line[:, None] * line / line.sum() ** 2)[None, None]

    def local_mean(x: Tensor) -> Tensor:
        return F.conv2d(x.flatten(0, 1)[:, None], window)

    mean_a, mean_b = local_mean(a_FCHW), local_mean(b_FCHW)
    variance_a = local_mean(a_FCHW * a_FCHW) - mean_a * mean_a
    variance_b = local_mean(b_FCHW * b_FCHW) - mean_b * mean_b
    covariance = local_mean(a_FCHW * b_FCHW) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + SSIM_C1) / (mean_a.square() + mean_b.square() + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (variance_a + variance_b + SSIM_C2)
    return (luminance * structure).mean().item()


if __name__ == "__main__":
    main()
