"""``humo-rt export``, ``verify-engine`` and ``build-engine``: their options, and one call each.

Knows options only; ``humo_rt.cli`` names the commands. Imports nothing heavy before one runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from humo_rt.cli_options import EngineOnnx, PresetName, Traceback, Weights, model_source
from humo_rt.terminal import errors_in_one_line


def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="ONNX file to write; large weights go beside it.")],
    preset: PresetName = None,
    weights: Weights = None,
    precision: Annotated[
        str, typer.Option(help="bfloat16, float16, float32, or fp8 (lossy: the linear layers of the blocks).")
    ] = "bfloat16",
    face_mask: Annotated[bool, typer.Option("--face-mask", help="Take a face mask as an input.")] = False,
    mask_predictor: Annotated[bool, typer.Option("--mask-predictor", help="Also predict the face mask.")] = False,
    plugins: Annotated[
        bool, typer.Option("--plugins", help="Audio attention as a TensorRT plugin; for build-engine only.")
    ] = False,
    traceback: Traceback = False,
) -> None:
    """Write the DiT as an ONNX file, for ONNX Runtime and build-engine."""
    with errors_in_one_line(traceback):
        from humo_rt.tensorrt.commands import run_export
        from humo_rt.tensorrt.source import Source

        model, found = model_source(preset, weights)
        source = Source(model=model, weights=found)
        parts = {"face_mask": face_mask, "mask_predictor": mask_predictor, "plugins": plugins}
        run_export(source, output, precision=precision, **parts)


def verify_engine(
    file: Annotated[Path, typer.Argument(help="An .engine, or the .onnx it was built from.")],
    preset: PresetName = None,
    weights: Weights = None,
    engine_onnx: EngineOnnx = None,
    traceback: Traceback = False,
) -> None:
    """Run an engine or ONNX file and PyTorch on the same inputs; print errors and speed, exit 1 if they disagree.

    The weights are those it was exported from, unless --preset or --weights names others.
    """
    with errors_in_one_line(traceback):
        from humo_rt.tensorrt.commands import run_verify
        from humo_rt.tensorrt.source import Source

        model, found = model_source(preset, weights)
        run_verify(file, Source(model=model, weights=found) if preset or weights else None, onnx=engine_onnx)


def build_engine(
    onnx: Annotated[Path, typer.Argument(help="What 'humo-rt export' wrote.")],
    target: Annotated[str, typer.Option(help="rtx4090, rtx5090, a100, h100, h200, b200, or current.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: a name that says what it is.")] = None,
    size: Annotated[
        list[str] | None, typer.Option(metavar="WIDTHxHEIGHT", help="Largest size in pixels; repeat for several.")
    ] = None,
    num_frames: Annotated[int | None, typer.Option(help="Longest video.")] = None,
    branches: Annotated[int | None, typer.Option(help="Most guidance branches in one forward.")] = None,
    references: Annotated[int | None, typer.Option(help="Most reference images.")] = None,
    engine_weights: Annotated[
        str, typer.Option(help="embedded; or, to replace them later: separate, refittable or stripped.")
    ] = "embedded",
    weight_streaming: Annotated[
        bool, typer.Option("--weight-streaming", help="Weights may stay in host memory; no CUDA graphs then.")
    ] = False,
    timing_cache: Annotated[Path | None, typer.Option(help="Kernel timings to reuse (full TensorRT only).")] = None,
    traceback: Traceback = False,
) -> None:
    """Build a TensorRT engine of an exported DiT. Engines for RTX cards need no GPU to be built."""
    with errors_in_one_line(traceback):
        from humo_rt.tensorrt.build import BuildSettings
        from humo_rt.tensorrt.commands import run_build
        from humo_rt.tensorrt.profiles import parse_size

        settings = BuildSettings(
            target=target,
            sizes=tuple(parse_size(text) for text in size or ()),
            num_frames=num_frames,
            branches=branches,
            references=references,
            weights=engine_weights,
            weight_streaming=weight_streaming,
            timing_cache=timing_cache,
        )
        run_build(onnx, output, settings)
