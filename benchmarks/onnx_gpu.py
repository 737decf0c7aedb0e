"""ONNX Runtime on an NVIDIA GPU against PyTorch: error and time of one forward, nano and HuMo-1.7B at 480x832.

    python benchmarks/onnx_gpu.py --export-only --folder /tmp/onnx      # minutes of one CPU core for each model, no GPU
    python benchmarks/onnx_gpu.py --folder /tmp/onnx --json benchmarks/results/<gpu>-onnx.json

Needs onnxruntime-gpu (its CUDA libraries come with torch) and onnxscript. Without ``--folder`` exports are made first,
each in a process of its own, and thrown away. Weights are random. The truth is the same weights in float32; ONNX may
err twice as much as PyTorch in the same precision. Times are medians of one forward without a face mask: ONNX, and
PyTorch with plain blocks, with the pipeline's attention, and with fused blocks too. Where ONNX Runtime ran each node is
counted. A case that fails is reported and does not stop the others.

Prints one line of JSON; exit code 1 when a case failed or an error is larger than allowed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from reporting import hand_over, report_of

from humo_rt.config import PRESETS, ModelConfig
from humo_rt.model.dit import HumoDiT
from humo_rt.runtime import matmul_backends
from humo_rt.runtime.attention_backends import AUTO, choose, use_attention
from humo_rt.runtime.fusing import fuse
from humo_rt.runtime.matmul_backends import use_matmul
from humo_rt.tensorrt.bindings import Size
from humo_rt.tensorrt.export import export_onnx
from humo_rt.tensorrt.session import OnnxDiT
from humo_rt.tensorrt.spec import DTYPES
from humo_rt.tensorrt.verify import compare, measure, measure_eager
from humo_rt.weights.modules import build_on_meta, part_dtype
from humo_rt.weights.random_init import fill_random

# 97 frames and one reference: 26 latent frames. The last size is timed.
SIZES = {
    "nano": (
        Size(branches=1, frames=2, height=4, width=6),
        Size(branches=4, frames=3, height=8, width=12),
        Size(branches=1, frames=5, height=16, width=10),
        Size(branches=4, frames=26, height=16, width=16),
    ),
    "humo-1.7b": (Size(branches=1, frames=26, height=60, width=104),),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One export. ``layers``: blocks to keep, None for all."""

    preset: str
    precision: str
    layers: int | None

    @property
    def name(self) -> str:
        return f"{self.preset}-{self.precision}" + (f"-{self.layers}-layers" if self.layers else "")

    def dit(self) -> HumoDiT:
        """Its DiT with random weights on the CPU, the same ones every time."""
        config: ModelConfig = PRESETS[self.preset]
        if self.layers:
            config = dataclasses.replace(config, dit=dataclasses.replace(config.dit, num_layers=self.layers))
        dit = build_on_meta(config)["dit"]
        fill_random(dit, part="dit", seed=0, dtype=part_dtype("dit", DTYPES[self.precision]), device="cpu")
        return dit.eval().requires_grad_(False)


def main() -> None:
    args = parse_arguments()
    jobs = [Job(preset=preset, precision=precision, layers=args.layers if preset != "nano" else None)
            for preset in args.presets for precision in args.precisions]  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        # Tracing keeps one core busy for minutes and lets the processes of other exports run beside it.
        with ProcessPoolExecutor(len(jobs), mp_context=get_context("spawn")) as pool:
            exports = {job: pool.submit(exported, job, folder) for job in jobs}
            cases = [attempt(job, exports[job], args) for job in jobs]
    report = report_of(torch.device(args.device), cases=cases)
    hand_over(report, args.json)
    if not all(case["accepted"] for case in cases):
        sys.exit(1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=["float16"])
    parser.add_argument("--layers", type=int, help="blocks of the large model, to try fewer; nano keeps its own")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--frames", type=int, help="latent frames, to try fewer")
    parser.add_argument("--branches", type=int, help="guidance branches, instead of 1 and 4")
    parser.add_argument("--runs", type=int, default=5, help="forwards that are timed")
    parser.add_argument("--folder", type=Path, help="keep exports here, and take those that are here already")
    parser.add_argument("--export-only", action="store_true", help="write the exports into --folder and stop")
    parser.add_argument("--json", type=Path, help="file for the report")
    args = parser.parse_args()
    if args.export_only and args.folder is None:
        parser.error("--export-only keeps nothing without --folder: name one")
    return args


def exported(job: Job, folder: Path) -> tuple[Path, float]:
    """The export of ``job`` in ``folder``, made unless it is there, and the seconds that took."""
    path, begin = folder / f"{job.name}.onnx", time.perf_counter()
    if not path.exists():
        dit = job.dit()
        export_onnx(dit, path, face_mask=True, mask_predictor=dit.mask_predictor is not None)
    return path, time.perf_counter() - begin


def attempt(job: Job, export: Future, args: argparse.Namespace) -> dict[str, Any]:
    """The case's report, or its error."""
    case = {"case": job.name, "accepted": False}
    try:
        path, case["export_seconds"] = export.result()
        case["bytes"] = sum(file.stat().st_size for file in (path, Path(f"{path}.data")) if file.exists())
        case |= {"accepted": True} if args.export_only else run(job, path, args)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other cases still say something
        traceback.print_exc()
        case["error"] = f"{type(error).__name__}: {error}"
    return case


def run(job: Job, path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Compare ``path`` with PyTorch on the device at every size, time both at the last one."""
    asked = {name: value for name in ("frames", "branches") if (value := getattr(args, name))}
    sizes = [dataclasses.replace(size, **asked) for size in SIZES[job.preset]]
    dit, begin = job.dit().to(args.device), time.perf_counter()
    graph = OnnxDiT.load(path, dit)
    loading = time.perf_counter() - begin
    comparisons = [dataclasses.asdict(found) | {"accepted": found.accepted}
                   for found in compare(graph, dit, sizes, capture=False)]  # fmt: skip
    speed = measure(graph, dit, sizes[-1], args.runs)
    result = {
        "accepted": all(comparison["accepted"] for comparison in comparisons),
        "comparisons": comparisons,
        "timed": str(sizes[-1]),
        "session_seconds": loading,
        "onnx_ms": speed.engine,
        "pytorch_plain_ms": speed.eager,
        "nodes": placement(path, dit, sizes[0]),
    }
    return result | exact_path(graph, dit, sizes[-1], args.runs)


def exact_path(graph: OnnxDiT, dit: HumoDiT, size: Size, runs: int) -> dict[str, Any]:
    """PyTorch with the pipeline's attention, then with fused blocks too; changes ``dit``."""
    weight = dit.blocks[0].ffn[0].weight
    if weight.device.type != "cuda":
        return {}
    backend = choose(AUTO, weight.device, weight.dtype, dit.config.head_dim)
    products = matmul_backends.choose(AUTO, weight.device, weight.dtype, dit.config.dim)

    def timed(prepare: Callable[[], Any]) -> float | str:
        try:
            prepare()
            return measure_eager(graph, dit, size, runs)
        except Exception as error:  # noqa: BLE001 - a kernel that does not run here costs this number, no more
            return f"{type(error).__name__}: {error}"

    return {
        "attention": backend,
        "products": products,
        "pytorch_ms": timed(lambda: use_attention(dit, backend)),
        "pytorch_fused_ms": timed(lambda: use_matmul(fuse(dit), products)),
    }


def placement(path: Path, dit: HumoDiT, size: Size) -> dict[str, dict[str, int]]:
    """By provider, how many nodes of each operator ran there in one call."""
    with tempfile.TemporaryDirectory() as folder:
        graph = OnnxDiT.load(path, dit, profile=Path(folder) / "profile")
        measure(graph, dit, size, runs=1)
        events = json.loads(graph.finish_profile().read_text())
    nodes = {(event["name"], event["args"]["op_name"], event["args"]["provider"])
             for event in events if "provider" in event.get("args", {})}  # fmt: skip
    counts: dict[str, Counter] = {}
    for _, operator, provider in nodes:
        counts.setdefault(provider, Counter())[operator] += 1
    return {provider: dict(operators.most_common()) for provider, operators in counts.items()}


if __name__ == "__main__":
    main()
