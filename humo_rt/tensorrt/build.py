"""Build a TensorRT engine from an exported DiT: read, check, compile, write.

Everything that can be refused is refused before the minutes of compiling. Engines for RTX cards are built on any
machine, with or without a GPU. Knows neither the pipeline nor the denoise loop.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from humo_rt.tensorrt.build_log import Messages, OnProgress
from humo_rt.tensorrt.engine_file import SUFFIX, EngineHeader, file_name, replacing, write_engine
from humo_rt.tensorrt.network import Graph, read_graph
from humo_rt.tensorrt.plan import compile_plan
from humo_rt.tensorrt.profiles import profiles_for
from humo_rt.tensorrt.targets import RTX, Target, TensorRT, driver_present, find_target, load_tensorrt
from humo_rt.tensorrt.weights import EMBEDDED, REFITTABLE, SEPARATE, STRIPPED, WEIGHTS, onnx_digest

_GIB = 1024**3
# Compiled kernels, beside the weights.
_KERNEL_BYTES = 128 * 1024**2


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """What to build.

    target: ``rtx4090``, ``rtx5090``, ``a100``, ``h100``, ``h200``, ``b200``, or ``current`` for this machine's GPU.
    sizes: (width, height) in pixels, one profile each. These, ``num_frames``, ``branches`` and ``references`` come from
    the model's preset when they are not given; ``profiles_for`` says what they mean.
    weights: ``embedded``, ``refittable``, ``stripped`` or ``separate``, see ``weights.WEIGHTS``.
    weight_streaming: let the runtime keep a part of the weights in host memory.
    timing_cache: file of kernel timings, read if it exists, and written; for the full TensorRT only.
    """

    target: str
    sizes: Sequence[tuple[int, int]] = ()
    num_frames: int | None = None
    branches: int | None = None
    references: int | None = None
    weights: str = EMBEDDED
    weight_streaming: bool = False
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(f"unknown kind of weights {self.weights!r}: choose one of {', '.join(WEIGHTS)}")
        if self.weight_streaming and self.weights == SEPARATE:
            raise ValueError("separate weights are not the engine's to stream: leave out --weight-streaming")

    def command(self, onnx: Path, output: Path) -> tuple[str, ...]:
        """The command that builds the same engine, from any folder."""
        numbers = {"--num-frames": self.num_frames, "--branches": self.branches, "--references": self.references}
        words = ["humo-rt", "build-engine", str(onnx.resolve()), "--target", self.target]
        for width, height in self.sizes:
            words += ["--size", f"{width}x{height}"]
        for option, number in numbers.items():
            words += [] if number is None else [option, str(number)]
        words += [] if self.weights == EMBEDDED else ["--engine-weights", self.weights]
        words += ["--weight-streaming"] if self.weight_streaming else []
        return (*words, "--output", str(output.resolve()))


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What was built. ``warnings``: what TensorRT said; ``fallbacks``: those about nodes it runs in another way."""

    path: Path
    header: EngineHeader
    seconds: float
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    fallbacks: tuple[str, ...]


def build_engine(
    onnx: str | Path,
    output: str | Path | None = None,
    *,
    settings: BuildSettings,
    on_progress: OnProgress = lambda phase, done, total: None,
) -> BuildReport:
    """Build the engine of an ONNX file that ``export_onnx`` wrote, by default under a name that tells engines apart.

    ``on_progress`` is called as (phase, steps done, steps in all), from another thread. Ctrl-C is passed on at once
    while TensorRT stops at its next step; nothing is written then.

    ``ValueError`` for a setting or a file that cannot be right; ``RuntimeError`` when TensorRT is missing, refuses the
    network or fails, and when the disk is full; a timing cache that cannot be written costs the engine nothing.
    """
    begin = time.perf_counter()
    target = find_target(settings.target)
    tensorrt = load_tensorrt(target.package)
    _require_possible(settings, tensorrt)
    graph = read_graph(Path(onnx))
    header = _planned_header(settings, graph, target, tensorrt)
    path = Path(output) if output is not None else Path(file_name(header))
    if settings.timing_cache is not None:
        _require_place(settings.timing_cache, "timing cache")
    holds_weights = settings.weights in (EMBEDDED, REFITTABLE)
    _require_writable(path, _KERNEL_BYTES + (graph.nbytes if holds_weights else 0))
    messages = Messages()
    plan = compile_plan(
        graph,
        header.profiles,
        tensorrt=tensorrt,
        target=target,
        weights=settings.weights,
        weight_streaming=settings.weight_streaming,
        timing_cache=settings.timing_cache,
        messages=messages,
        on_progress=on_progress,
    )
    command = settings.command(graph.path, path)
    header = dataclasses.replace(header, weight_bindings=plan.weight_bindings, command=command)
    header = write_engine(path, header, plan.data)
    if settings.timing_cache is not None:
        _keep_timings(settings.timing_cache, plan.timings, path)
    return BuildReport(
        path=path,
        header=header,
        seconds=time.perf_counter() - begin,
        notes=plan.notes,
        warnings=tuple(messages.warnings),
        fallbacks=messages.fallbacks,
    )


def _keep_timings(cache: Path, timings: bytes, engine: Path) -> None:
    """After the engine, which took the minutes."""
    try:
        with replacing(cache) as file:
            file.write(timings)
    except RuntimeError as error:
        raise RuntimeError(f"{engine} is complete, but not its timing cache: {error}") from error


def _planned_header(settings: BuildSettings, graph: Graph, target: Target, tensorrt: TensorRT) -> EngineHeader:
    """What is known before compiling: all but the bindings of separate weights and the command."""
    asked = {name: getattr(settings, name) for name in ("sizes", "num_frames", "branches", "references")}
    return EngineHeader(
        spec=graph.spec,
        origin=graph.origin,
        profiles=profiles_for(graph.spec.config, **asked),
        target=settings.target,
        capability=target.capability,
        package=tensorrt.package,
        package_version=tensorrt.version,
        opset=graph.opset,
        weights=settings.weights,
        weight_streaming=settings.weight_streaming,
        onnx=str(graph.path.resolve()),
        onnx_sha256=onnx_digest(graph.path),
        command=(),
    )


def _require_possible(settings: BuildSettings, tensorrt: TensorRT) -> None:
    """Refuse what this package cannot do here."""
    if settings.timing_cache is not None and tensorrt.package == RTX:
        raise ValueError(f"{RTX} times no kernels while it builds: leave out --timing-cache")
    if settings.weights in (REFITTABLE, STRIPPED) and tensorrt.builds_without_gpu and not driver_present():
        raise RuntimeError(
            f"{tensorrt.package} {tensorrt.version} prepares {settings.weights} weights on a GPU, and there is none: "
            f"use --engine-weights {SEPARATE}, which needs none and can be replaced as well"
        )


def _require_writable(path: Path, needed: int) -> None:
    if path.suffix != SUFFIX:
        raise ValueError(f"output {str(path)!r} has suffix {path.suffix!r}: use {SUFFIX}")
    _require_place(path, "output")
    folder = path.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RuntimeError(
            f"the engine needs about {needed / _GIB:.1f} GiB in {str(folder)!r}, {free / _GIB:.1f} GiB is free: "
            "free space, or choose another folder"
        )


def _require_place(path: Path, what: str) -> None:
    folder = path.parent
    if not folder.is_dir() or path.is_dir():
        raise ValueError(f"{what} {str(path)!r} cannot be written there: name a file in a folder that exists")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{what} folder {str(folder)!r} is not writable: choose another one")
