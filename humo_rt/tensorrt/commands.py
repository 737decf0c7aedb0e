"""What ``humo-rt export``, ``build-engine`` and ``verify-engine`` show: progress, and lines about the result.

Knows terminals; the work is done elsewhere.
"""

from __future__ import annotations

from pathlib import Path

import torch
import typer

from humo_rt.tensorrt import DitEngine, fp8, open_dit
from humo_rt.tensorrt.build import BuildSettings, build_engine
from humo_rt.tensorrt.build_progress import build_bar
from humo_rt.tensorrt.engine import Engine
from humo_rt.tensorrt.export import export_onnx, require_output
from humo_rt.tensorrt.source import Source, fp8_scales_of, load_dit
from humo_rt.tensorrt.spec import DTYPES, FP8
from humo_rt.tensorrt.verify import Comparison, Speed, compare, measure
from humo_rt.tensorrt.verify_plan import plan_of
from humo_rt.terminal import FAILED, say

_MIB = 1024**2


def run_build(onnx: Path, output: Path | None, settings: BuildSettings) -> None:
    """Build, then print the file with its size, and on standard error every note and warning."""
    with build_bar() as on_progress:
        report = build_engine(onnx, output, settings=settings, on_progress=on_progress)
    for text in (*report.notes, *report.warnings):
        say(f"warning: {text}", style="yellow")
    header = report.header
    typer.echo(
        f"{report.path}: {report.path.stat().st_size / _MIB:.0f} MiB for {header.target} with {header.package} "
        f"{header.package_version}, {'; '.join(map(str, header.profiles))}, {report.seconds:.0f} s"
    )


def run_export(source: Source, output: Path, *, precision: str, **parts: bool) -> None:
    """Load the DiT, export it with the optional ``parts`` of ``export_onnx``, print the files with their sizes.

    ``precision``: one of ``spec.DTYPES``, or ``"fp8"``, for which the scales of an fp8 checkpoint are kept.
    """
    require_output(output)
    if precision not in (*DTYPES, FP8):
        raise ValueError(f"unknown precision {precision!r}: choose one of {', '.join((*DTYPES, FP8))}")
    dtype = fp8.COMPUTE_DTYPE if precision == FP8 else DTYPES[precision]
    dit = load_dit(source, dtype=dtype, device=torch.device("cpu"))
    if precision == FP8:
        fp8.quantize(dit, fp8_scales_of(source))
    with build_bar() as progress:
        exported = export_onnx(dit, output, source=source, progress=progress, **parts)
    weights = f", weights in {exported.data.name}" if exported.data else ""
    count = sum(exported.nodes.values())
    typer.echo(
        f"{exported.path}: {exported.nbytes / _MIB:.0f} MiB in {exported.spec.precision}, {count} nodes{weights}"
    )


def run_verify(path: Path, source: Source | None, *, onnx: Path | None = None) -> None:
    """Compare ``path`` with PyTorch at every size, then time both; exit code 1 when they disagree.

    ``onnx``: the weights of an engine, as in ``plan_of``.
    """
    plan = plan_of(path, source, onnx=onnx)
    dit = load_dit(plan.source, dtype=plan.spec.dtype, device=plan.device)
    graph = open_dit(DitEngine(path, onnx=onnx), dit, loaded_from=plan.source)
    # Before the comparison, which puts the DiT into fp8 when the engine is.
    speed = measure(graph, dit, plan.sizes[-1])
    scales = fp8_scales_of(plan.source) if plan.spec.fp8 else None
    agreed = True
    for comparison in compare(graph, dit, plan.sizes, capture=isinstance(graph, Engine), fp8_scales=scales):
        typer.echo(_compared(comparison))
        agreed &= comparison.accepted
    typer.echo(_timed(speed))
    if not agreed:
        say(f"{path} and PyTorch disagree", style="red")
        raise typer.Exit(FAILED)
    typer.echo(f"{path} agrees with PyTorch")


def _compared(comparison: Comparison) -> str:
    captured = {None: "", True: ", CUDA graph gives the same", False: ", CUDA graph DIFFERS"}[comparison.captured]
    verdict = "ok" if comparison.accepted else "TOO LARGE"
    return (
        f"{comparison.size}, {comparison.case}: error {comparison.error:.2e}, allowed {comparison.bound:.2e}: "
        f"{verdict}{captured}"
    )


def _timed(speed: Speed) -> str:
    return f"{speed.size}: {speed.engine:.1f} ms a forward, PyTorch {speed.eager:.1f} ms"
