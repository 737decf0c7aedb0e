"""What ``humo-rt build-engine`` shows: progress, what TensorRT said, and one line about the result.

Knows terminals; the work is done elsewhere.
"""

from __future__ import annotations

from pathlib import Path

import typer

from humo_rt.tensorrt.build import BuildSettings, build_engine
from humo_rt.tensorrt.build_progress import build_bar
from humo_rt.terminal import say

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
