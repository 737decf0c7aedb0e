"""The latency benchmark as it is called, on a few pixels, and the parts it reports with."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from humo_rt.config import HUMO_1_7B, HUMO_17B

ROOT = Path(__file__).parents[2]
TINY = ["--weights", "random", "--device", "cpu", "--height", "32", "--width", "32", "--num-frames", "5"]


def latency(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "benchmarks" / "latency.py", *TINY, *arguments]
    return subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)


@pytest.fixture
def benchmark_module(monkeypatch):
    """Imports a module of the folder as its scripts do."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


def test_the_whole_report(tmp_path) -> None:
    done = latency("--steps", "2", "--repeat", "1", "--baseline", "--json", str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stderr
    *table, line = done.stdout.splitlines()
    report = json.loads((tmp_path / "report.json").read_text())
    assert json.loads(line) == report
    assert list(report["variants"]) == ["batched", "baseline"]
    for variant in report["variants"].values():
        assert set(variant["seconds"]) == {"text", "audio", "image", "denoise", "decode", "encode", "total"}
        assert variant["step_p90"] >= variant["step_p50"] > variant["branch_forward"] > 0
        assert variant["second_call"]["text"] < variant["seconds"]["text"]
        assert "percent_of_floor" not in variant
        assert "times_floor" not in variant
    assert report["floor"] is None
    assert set(report["ratio_to_baseline"]) == {"batched"}
    labels = ("cold start", "audio", "step p90", "branch forward", "second call", "real time x", "peak GiB", "TFLOP/s")
    for label in labels:
        assert sum(row.startswith(label) for row in table) == 1, label
    assert table[-1].startswith("batched against baseline: ")
    with Image.open(tmp_path / "report.png") as chart:
        assert chart.width > 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline", "--dit-engine", "dit.onnx"], "--baseline runs PyTorch's DiT"),
        (["--baseline", "--precision", "fp8"], "--baseline is compared with exact: add it to --precision"),
        (["--repeat", "0"], "--repeat 0 times nothing"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], message: str) -> None:
    done = latency(*arguments)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


def test_work_and_tokens_are_those_of_the_published_sizes(benchmark_module) -> None:
    """480x832, 97 frames and one reference: 113 + 303 TFLOP at 1.7B, 1140 + 1350 at 17B."""
    floor = benchmark_module("floor")
    shape = (1, 16, 26, 60, 104)
    assert floor.token_count(HUMO_1_7B.dit, shape) == 40_560
    assert floor.branch_work(HUMO_1_7B.dit, 40_560) == pytest.approx(416e12, rel=0.01)
    assert floor.branch_work(HUMO_17B.dit, 40_560) == pytest.approx(2490e12, rel=0.01)


def test_a_floor_uses_the_kernel_it_is_given(benchmark_module) -> None:
    from tests.tiny import tiny_config

    config, seen = tiny_config(HUMO_1_7B).dit, []

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        seen.append((tuple(q.shape), q.dtype))
        return v

    measured = benchmark_module("floor").measure_floor(
        config, (2, 16, 3, 4, 6), 3, torch.device("cpu"), dtype=torch.float32, attention=attention
    )
    forwards = 1 + 3
    assert seen == [((2, config.num_heads, 18, config.head_dim), torch.float32)] * config.num_layers * forwards
    assert measured["tokens"] == 18
    assert measured["total"] == pytest.approx(measured["attention"] + measured["linear"])
    assert measured["linear"] > 0


def test_the_floor_of_fp8_has_the_products_of_that_tier(benchmark_module, monkeypatch) -> None:
    """Those of audio stay exact; the others read rows that were quantised before the clock started."""
    from humo_rt.runtime.float8_linear import Float8Linear
    from tests.tiny import tiny_config

    config, floor, seen = tiny_config(HUMO_1_7B).dit, benchmark_module("floor"), []
    float8, exact = Float8Linear.forward, torch.nn.functional.linear

    def counted(kind, run):
        def counting(*inputs):
            seen.append((kind, type(inputs[-1 if kind == "fp8" else 0]).__name__))
            return run(*inputs)

        return counting

    monkeypatch.setattr(Float8Linear, "forward", counted("fp8", float8))
    monkeypatch.setattr(torch.nn.functional, "linear", counted("exact", exact))
    measured = floor.measure_floor(config, (1, 16, 3, 4, 6), 1, torch.device("cpu"), precision="fp8")
    block = [("fp8", "QuantizedRows")] * 4 + [("exact", "Tensor")] * 2 + [("fp8", "QuantizedRows")] * 2
    assert seen == block * config.num_layers * 2
    assert measured["linear"] > 0


def test_the_floor_of_float8_attention_is_without_the_passes_that_quantise(benchmark_module, monkeypatch) -> None:
    from tests.tiny import tiny_config

    config, floor, seen = tiny_config(HUMO_1_7B).dit, benchmark_module("floor"), []

    def attend(*parts):
        seen.append([(x.dtype, tuple(x.shape), tuple(scale.shape)) for x, scale in parts])

    monkeypatch.setattr(floor, "attend_quantized", attend)
    floor.measure_floor(config, (1, 16, 3, 4, 6), 1, torch.device("cpu"), attention=floor.float8_attention)
    part = (torch.float8_e4m3fn, (1, 18, config.num_heads, config.head_dim), (1,))
    assert seen == [[part] * 3] * config.num_layers * 2


def test_time_and_floor_are_of_one_branch_each(benchmark_module) -> None:
    """Steps of three branches, 2.4 s each, against 0.6 s: 4/3 of the floor."""
    from humo_rt.runtime.trace import Trace

    latency = benchmark_module("latency")
    trace = Trace(stages={}, steps=(2.4, 2.4, 2.4), branches=(3, 3, 3), peak_memory=None)
    settings = {"num_frames": 97, "height": 480, "width": 832, "image": ["one"]}
    variants = {"batched": {"branch_forward": trace.branch_forward, "settings": settings}}
    floor = latency.median_floor([{"tokens": 40_560, "total": total} for total in (590.0, 600.0, 1800.0)])
    latency.add_rates(HUMO_1_7B.dit, variants, floor)
    assert latency.branch_shape(settings) == (1, 16, 26, 60, 104)
    assert variants["batched"]["times_floor"] == pytest.approx(trace.step_p50 / (3 * 0.6))
    assert variants["batched"]["percent_of_floor"] == pytest.approx(75)
    assert variants["batched"]["tflops"] == pytest.approx(416 / 0.8, rel=0.01)


def test_bars_are_as_long_as_their_numbers(benchmark_module, tmp_path) -> None:
    charts = benchmark_module("stage_chart")
    variants = {"one": {"text": 1.0, "total": 4.0}, "two": {"text": 0.0, "total": 2.0, "extra": 1.0}}
    path = charts.save_stage_chart(tmp_path / "chart.png", variants, "A title")
    pixels = Image.open(path).convert("RGB")
    lengths = [
        [
            sum(pixels.getpixel((x, y)) == colour for x in range(130, 130 + charts._BARS + 8))
            for colour in charts._COLOURS
        ]
        for y in range(charts._MARGIN + charts._TITLE + charts._LEGEND, pixels.height)
    ]
    longest = [max(row[index] for row in lengths) for index in range(2)]
    assert longest == [charts._BARS + 1, charts._BARS // 2 + 1]
    with pytest.raises(ValueError, match="5 variants do not fit"):
        charts.save_stage_chart(path, {name: {"text": 1.0} for name in "abcde"}, "Too many")
