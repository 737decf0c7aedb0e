"""What computing guidance branches less often saves, and what it costs: forwards, seconds and PSNR against exact.

    python benchmarks/guidance_reuse.py --json benchmarks/results/<machine>-guidance-reuse.json

Generates the shipped portrait and recordings with the exact pipeline and with every schedule, same seed, and prints a
table. Scores of lips, person and caption: ``python -m training.evaluate --guidance-reuse SCHEDULE``.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from reporting import hand_over, report_of

import humo_rt
from humo_rt.sampling.branches import GuidedModel
from humo_rt.weights.resolve import NANO_ASSETS

PROMPT = "A man with curly black hair and a moustache talks to the camera. He wears a blue shirt."
SAMPLES = NANO_ASSETS.parent / "samples"
SCHEDULES = ["2", "3", "TA=2", "0=2", "TA=2,0=4", "TA=2,0=4,below=900"]


def main() -> None:
    args = parse_arguments()
    pipeline = humo_rt.Pipeline.from_pretrained(args.preset, weights=args.weights, device=args.device)
    audios = sorted(SAMPLES.glob("*.wav"))[: args.videos]
    exact = [generate(pipeline, args, audio, None) for audio in audios]
    rows = {"exact": row(exact, exact)}
    print_row("exact", rows["exact"])
    for schedule in args.schedules:
        rows[schedule] = row([generate(pipeline, args, audio, schedule) for audio in audios], exact)
        print_row(schedule, rows[schedule])
    report = report_of(pipeline.device, videos=len(audios), rows=rows)
    hand_over(report, args.json)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--weights")
    parser.add_argument("--device")
    parser.add_argument("--schedules", nargs="+", default=SCHEDULES)
    parser.add_argument("--videos", type=int, default=3)
    parser.add_argument("--num-frames", type=int, default=49)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def generate(pipeline: humo_rt.Pipeline, args: argparse.Namespace, audio: Path, schedule: str | None) -> dict[str, Any]:
    """The frames, the seconds of the denoise loop, and how many branches were computed."""
    forward, counted = GuidedModel._forward, []

    def counting(self: GuidedModel, x: torch.Tensor, timestep: int, names: tuple[str, ...]) -> torch.Tensor:
        counted.append(len(names))
        return forward(self, x, timestep, names)

    with mock.patch.object(GuidedModel, "_forward", counting):
        result = pipeline.generate(
            PROMPT,
            image=SAMPLES / "portrait.png",
            audio=audio,
            num_frames=args.num_frames,
            seed=0,
            guidance_reuse=schedule,
        )
    return {"frames": result.frames, "seconds": result.timings["denoise"], "forwards": sum(counted)}


def row(made: list[dict[str, Any]], exact: list[dict[str, Any]]) -> dict[str, float]:
    errors = [np.square(a["frames"] / 255.0 - b["frames"] / 255.0).mean() for a, b in zip(made, exact, strict=True)]
    return {
        "forwards": made[0]["forwards"],
        "seconds": statistics.median(one["seconds"] for one in made),
        "psnr": -10 * math.log10(max(float(np.mean(errors)), 1e-10)),
    }


def print_row(name: str, values: dict[str, float]) -> None:
    numbers = f"{values['forwards']:5d} forwards  {values['seconds']:8.2f} s  {values['psnr']:6.2f} dB"
    print(f"{name:<26}{numbers}", flush=True)


if __name__ == "__main__":
    main()
