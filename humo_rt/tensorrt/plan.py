"""The part of a build that takes minutes: TensorRT compiles a parsed network into a plan, in a thread of its own.

Knows TensorRT's builder; writes no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

from humo_rt.tensorrt.build_log import Messages, OnProgress, collecting_logger, progress_monitor
from humo_rt.tensorrt.engine_file import WeightBinding
from humo_rt.tensorrt.network import Graph, parse
from humo_rt.tensorrt.profiles import Profile
from humo_rt.tensorrt.targets import Target, TensorRT
from humo_rt.tensorrt.weights import REFITTABLE, STRIPPED

_POLL_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """TensorRT's serialised engine and the kernel timings it was made with. ``data`` is a buffer that TensorRT owns."""

    data: memoryview
    timings: bytes
    weight_bindings: tuple[WeightBinding, ...]
    notes: tuple[str, ...]


def compile_plan(
    graph: Graph,
    profiles: Sequence[Profile],
    *,
    tensorrt: TensorRT,
    target: Target,
    weights: str,
    weight_streaming: bool,
    timing_cache: Path | None,
    messages: Messages,
    on_progress: OnProgress,
) -> Plan:
    """Parse and compile; see ``build_engine``. ``RuntimeError`` carries everything TensorRT reported as an error."""
    trt = tensorrt.module
    logger = collecting_logger(trt, messages)
    builder = trt.Builder(logger)
    network = parse(graph, builder, tensorrt, logger, weights=weights)
    config = builder.create_builder_config()
    tensorrt.aim(config, target)
    _set_flags(config, trt, weights, weight_streaming)
    for profile in profiles:
        config.add_optimization_profile(_optimization_profile(builder, graph, profile))
    if timing_cache is not None:
        _load_timing_cache(config, timing_cache)
    cancelled = Event()
    monitor = progress_monitor(trt, cancelled, on_progress)
    config.progress_monitor = monitor
    data = _in_thread(lambda: builder.build_serialized_network(network.definition, config), cancelled)
    if data is None:
        reasons = "; ".join(messages.errors) or "it gave no reason"
        raise RuntimeError(f"{tensorrt.package} {tensorrt.version} could not build the engine: {reasons}")
    return Plan(
        data=memoryview(data).cast("B"),
        timings=b"" if timing_cache is None else bytes(config.get_timing_cache().serialize()),
        weight_bindings=network.weight_bindings,
        notes=network.notes,
    )


def _set_flags(config: Any, trt: Any, weights: str, weight_streaming: bool) -> None:
    flags = trt.BuilderFlag
    # What the model computes in float32, it computes in float32.
    config.clear_flag(flags.TF32)
    if hasattr(flags, "REQUIRE_USER_ALLOCATION") and not weight_streaming:
        # Nothing is allocated while the engine runs, so that CUDA graphs can capture it. Streaming has to allocate.
        config.set_flag(flags.REQUIRE_USER_ALLOCATION)
    if weights in (REFITTABLE, STRIPPED):
        config.set_flag(flags.REFIT)
    if weights == STRIPPED:
        config.set_flag(flags.STRIP_PLAN)
    if weight_streaming:
        config.set_flag(flags.WEIGHT_STREAMING)


def _optimization_profile(builder: Any, graph: Graph, profile: Profile) -> Any:
    result = builder.create_optimization_profile()
    for binding in graph.spec.inputs:
        if any(isinstance(axis, str) for axis in binding.axes):
            result.set_shape(binding.name, *profile.shapes(binding, graph.spec.config))
    assert result, f"profile {profile} is not complete"
    return result


def _load_timing_cache(config: Any, path: Path) -> None:
    stored = path.read_bytes() if path.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(stored), False):
        raise ValueError(f"timing cache {path} belongs to another card or version of TensorRT: delete it")


def _in_thread(work: Callable[[], Any], cancelled: Event) -> Any:
    """``work()`` while this thread stays awake for Ctrl-C, which sets ``cancelled`` and is passed on at once.

    The thread is a daemon: TensorRT looks at ``cancelled`` only between steps, and one step can take minutes.
    """
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            outcome.append(error)
            raise

    thread = Thread(target=run, name="tensorrt-build", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
    except BaseException:
        cancelled.set()
        raise
    return outcome[0]
