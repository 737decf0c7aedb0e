"""Building: settings, files and messages on graphs of a few nodes, through the real TensorRT."""

from __future__ import annotations

import shutil
import threading
import time

import pytest
import tensorrt_rtx
from typer.testing import CliRunner

from humo_rt.cli import app
from humo_rt.tensorrt import build, plan
from humo_rt.tensorrt.build import BuildSettings, build_engine
from humo_rt.tensorrt.build_log import Messages, collecting_logger
from humo_rt.tensorrt.engine_file import mapped_plan, read_header
from humo_rt.tensorrt.fingerprint import Fingerprint
from humo_rt.tensorrt.source import Origin, Source
from humo_rt.tensorrt.weights import SEPARATE
from tests.tensorrt.plan_layout import limits
from tests.tensorrt.small_graphs import save_scaling, tiny_spec

SIZE = {"sizes": [(48, 32)], "num_frames": 9, "branches": 4}


@pytest.fixture
def onnx_file(tmp_path):
    return save_scaling(tmp_path / "dit.onnx", tiny_spec())


def built(onnx_file, **settings):
    return build_engine(
        onnx_file, onnx_file.with_suffix(".engine"), settings=BuildSettings(**({"target": "rtx4090"} | SIZE | settings))
    )


def test_an_engine_is_built_and_says_what_it_is(onnx_file):
    report = built(onnx_file, references=2)
    header = read_header(report.path)
    assert header == report.header
    assert header.spec == tiny_spec()
    assert (header.target, header.capability, header.opset) == ("rtx4090", (8, 9), 23)
    assert header.package_version == tensorrt_rtx.__version__
    assert header.profiles[0].largest.frames == 3 + 2


def test_every_size_is_a_profile_of_the_plan(onnx_file):
    report = built(onnx_file, sizes=[(48, 32), (64, 64)])
    spec = report.header.spec
    with mapped_plan(report.path) as plan:
        found = limits(bytes(plan))
    assert len(report.header.profiles) == 2
    assert found == [
        profile.shapes(binding, spec.config) for profile in report.header.profiles for binding in spec.inputs
    ]


def test_the_command_in_the_header_builds_the_same_engine(onnx_file):
    report = built(onnx_file, weights=SEPARATE, references=2)
    report.path.unlink()
    result = CliRunner().invoke(app, list(report.header.command[1:]), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert read_header(report.path) == report.header


def test_without_a_name_the_file_is_named_by_what_it_is(onnx_file, monkeypatch):
    monkeypatch.chdir(onnx_file.parent)
    report = build_engine(onnx_file, settings=BuildSettings(target="rtx5090", **SIZE))
    assert report.path.name.startswith("custom_float16_48x32_7f4b_rtx5090_tensorrt-rtx-")
    assert report.path.is_file()


def test_what_tensorrt_warns_of_is_reported(onnx_file):
    assert any("Unused Input: text_keys" in warning for warning in built(onnx_file).warnings)


def test_a_node_that_falls_back_is_told_from_other_warnings():
    messages = Messages()
    logger = collecting_logger(tensorrt_rtx, messages)
    levels = tensorrt_rtx.ILogger
    logger.log(levels.WARNING, "Unused Input: x")
    logger.log(levels.WARNING, "Attention is not supported by a dedicated kernel, falling back")
    logger.log(levels.INFO, "falls back")
    logger.log(levels.ERROR, "broken")
    assert messages.fallbacks == ("Attention is not supported by a dedicated kernel, falling back",)
    assert messages.errors == ["broken"]


def test_progress_is_reported_by_phase(onnx_file):
    seen = []
    build_engine(
        onnx_file,
        onnx_file.with_suffix(".engine"),
        settings=BuildSettings(target="rtx4090", **SIZE),
        on_progress=lambda *step: seen.append(step),
    )
    assert ("Building engine", 0, 6) in seen
    assert all(0 <= done <= total for _, done, total in seen)


def test_refittable_weights_need_a_gpu_to_be_prepared(onnx_file, monkeypatch):
    monkeypatch.setattr(build, "driver_present", lambda: False)
    for weights in ("refittable", "stripped"):
        with pytest.raises(RuntimeError, match=f"prepares {weights} weights on a GPU.*use --engine-weights separate"):
            built(onnx_file, weights=weights)


@pytest.mark.skipif(build.driver_present(), reason="a driver is here")
@pytest.mark.parametrize("weights", ["refittable", "stripped"])
def test_tensorrt_cannot_prepare_them_without_a_gpu(onnx_file, monkeypatch, weights):
    """Where this fails, TensorRT has learned to, and refitting can be tested without a GPU."""
    monkeypatch.setattr(build, "driver_present", lambda: True)
    with pytest.raises(RuntimeError, match="could not build the engine: .*CUDA_SUCCESS"):
        built(onnx_file, weights=weights)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "elsewhere"}, "unknown kind of weights 'elsewhere': choose one of embedded, refittable"),
        ({"weights": "separate", "weight_streaming": True}, "leave out --weight-streaming"),
        ({"timing_cache": "t.cache"}, "times no kernels while it builds: leave out --timing-cache"),
        ({"target": "rtx2080"}, "unknown target 'rtx2080'"),
        ({"sizes": [(50, 32)]}, "size 50x32 is not a multiple of 16"),
    ],
)
def test_settings_that_cannot_be_are_refused(onnx_file, settings, message):
    with pytest.raises(ValueError, match=message):
        built(onnx_file, **settings)
    assert [path.name for path in onnx_file.parent.iterdir()] == ["dit.onnx"]


def test_weight_streaming_is_built_in(onnx_file):
    assert read_header(built(onnx_file, weight_streaming=True).path).weight_streaming


@pytest.mark.parametrize(
    ("name", "message"), [("dit.plan", "use .engine"), ("none/dit.engine", "cannot be written there")]
)
def test_an_output_that_cannot_be_written_is_refused_first(onnx_file, name, message):
    with pytest.raises(ValueError, match=message):
        build_engine(onnx_file, onnx_file.parent / name, settings=BuildSettings(target="rtx4090", **SIZE))


def test_too_little_space_is_said_before_the_build(onnx_file, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(RuntimeError, match="the engine needs about 0.1 GiB in .*, 0.0 GiB is free"):
        built(onnx_file)


def test_what_tensorrt_refuses_is_passed_on(onnx_file, monkeypatch):
    def refuse(builder, graph, profile):
        result = builder.create_optimization_profile()
        result.set_shape("latents", (1, 16, 2, 2, 2), (1, 16, 2, 2, 2), (1, 16, 2, 2, 2))
        return result

    monkeypatch.setattr(plan, "_optimization_profile", refuse)
    with pytest.raises(RuntimeError, match=r"could not build the engine: .*(timestep_sinusoid|profile)"):
        built(onnx_file)
    assert [path.name for path in onnx_file.parent.iterdir()] == ["dit.onnx"]


def test_ctrl_c_is_passed_on_at_once_and_stops_the_build(monkeypatch):
    started, cancelled = threading.Event(), threading.Event()

    def work():
        started.set()
        while not cancelled.wait(0.01):
            pass

    def interrupting_join(thread, timeout):
        started.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "join", interrupting_join)
    begin = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        plan._in_thread(work, cancelled)
    assert cancelled.is_set()
    assert time.perf_counter() - begin < 1


def test_a_cancelled_build_stops_at_its_next_step(onnx_file, monkeypatch):
    cancelled = threading.Event()
    monkeypatch.setattr(plan, "Event", lambda: cancelled)
    with pytest.raises(RuntimeError, match="cancel"):
        build_engine(
            onnx_file,
            onnx_file.with_suffix(".engine"),
            settings=BuildSettings(target="rtx4090", **SIZE),
            on_progress=lambda phase, done, total: cancelled.set(),
        )
    assert [path.name for path in onnx_file.parent.iterdir()] == ["dit.onnx"]


TIMINGS = "ignore:.*Timing cache operations are no-ops.*:DeprecationWarning"


@pytest.fixture
def timing(monkeypatch):
    """TensorRT for RTX takes a timing cache as the full one does, and does nothing with it."""
    monkeypatch.setattr(build, "_require_possible", lambda settings, tensorrt: None)


@pytest.mark.filterwarnings(TIMINGS)
def test_a_timing_cache_is_written_and_read_again(onnx_file, tmp_path, timing):
    kept = []
    for _ in range(2):
        built(onnx_file, timing_cache=tmp_path / "timings")
        kept.append((tmp_path / "timings").read_bytes())
    assert kept[0] == kept[1] != b""


@pytest.mark.parametrize("place", ["none/timings", "."])
def test_a_timing_cache_that_cannot_be_written_is_refused_before_the_build(onnx_file, tmp_path, timing, place):
    with pytest.raises(ValueError, match="timing cache .* cannot be written there"):
        built(onnx_file, timing_cache=tmp_path / place)
    assert [path.name for path in tmp_path.iterdir()] == ["dit.onnx"]


@pytest.mark.filterwarnings(TIMINGS)
def test_an_engine_outlives_a_timing_cache_that_could_not_be_written(onnx_file, tmp_path, timing, monkeypatch):
    def full(path):
        raise RuntimeError(f"cannot write {path} (the disk is full)")

    monkeypatch.setattr(build, "replacing", full)
    with pytest.raises(RuntimeError, match="dit.engine is complete, but not its timing cache: cannot write .*timings"):
        built(onnx_file, timing_cache=tmp_path / "timings")
    assert read_header(onnx_file.with_suffix(".engine")).target == "rtx4090"


def test_the_command_in_the_header_serves_from_any_folder(onnx_file, monkeypatch):
    monkeypatch.chdir(onnx_file.parent)
    report = build_engine("dit.onnx", "dit.engine", settings=BuildSettings(target="rtx4090", **SIZE))
    words = report.header.command
    assert words[2] == str(onnx_file)
    assert words[-1] == str(onnx_file.with_suffix(".engine"))


def test_an_engine_says_which_weights_it_was_exported_from(tmp_path):
    origin = Origin(source=Source(model="nano", weights="random"), fingerprint=Fingerprint({"head.head.bias": (0.5,)}))
    file = save_scaling(tmp_path / "dit.onnx", tiny_spec(), origin=origin)
    assert read_header(built(file).path).origin == origin
