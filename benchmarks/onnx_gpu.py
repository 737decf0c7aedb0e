"""ONNX Runtime on an NVIDIA GPU against PyTorch: error and time of one forward, nano and HuMo-1.7B at 480x832.

    python benchmarks/onnx_gpu.py --json benchmarks/results/<gpu>-onnx.json     # needs onnxruntime-gpu and onnxscript

Weights are random. The truth is the same weights in float32; ONNX may err twice as much as PyTorch in the same
precision.
Prints one line of JSON; exit code 1 when an error is larger than that.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from humo_rt.tensorrt import open_dit
from humo_rt.tensorrt.bindings import Size
from humo_rt.tensorrt.export import export_onnx
from humo_rt.tensorrt.source import Source, load_dit
from humo_rt.tensorrt.verify import compare, measure

# 97 frames and one reference: 26 latent frames.
SIZES = {
    "nano": Size(branches=4, frames=26, height=16, width=16),
    "humo-1.7b": Size(branches=3, frames=26, height=60, width=104),
}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main() -> None:
    args = parse_arguments()
    cases = [run(preset, precision, args) for preset in args.presets for precision in args.precisions]
    report = {"machine": machine(), "command": " ".join(sys.argv), "cases": cases}
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))
    if not all(comparison["accepted"] for case in cases for comparison in case["comparisons"]):
        sys.exit(1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=["float16"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--frames", type=int, help="latent frames, to try fewer")
    parser.add_argument("--branches", type=int, help="guidance branches, to try fewer")
    parser.add_argument("--json", type=Path, help="file for the report")
    return parser.parse_args()


def run(preset: str, precision: str, args: argparse.Namespace) -> dict[str, Any]:
    """Export on the CPU, compare on the device at the preset's size, and time both there."""
    dit = load_dit(Source(model=preset, weights="random"), dtype=DTYPES[precision], device=torch.device("cpu"))
    asked = {"frames": args.frames, "branches": args.branches}
    size = dataclasses.replace(SIZES[preset], **{name: value for name, value in asked.items() if value})
    with tempfile.TemporaryDirectory() as folder:
        exported = export_onnx(dit, Path(folder) / "dit.onnx")
        nbytes = exported.nbytes
        graph = open_dit(exported.path, dit.to(args.device))
        comparisons = [
            dataclasses.asdict(comparison) | {"accepted": comparison.accepted}
            for comparison in compare(graph, dit, [size], capture=False)
        ]
        speed = measure(graph, dit, size)
    return {
        "preset": preset,
        "precision": precision,
        "size": str(size),
        "bytes": nbytes,
        "comparisons": comparisons,
        "onnx_ms": speed.engine,
        "pytorch_ms": speed.eager,
    }


def machine() -> dict[str, Any]:
    import onnxruntime

    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


if __name__ == "__main__":
    main()
