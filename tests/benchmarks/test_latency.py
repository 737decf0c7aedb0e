"""The latency benchmark as it is called, on a few pixels, and the parts it reports with."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from PIL import Image

from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.weights.random_init import byte_tokenizer

ROOT = Path(__file__).parents[2]
TINY = ["--weights", "random", "--device", "cpu", "--height", "32", "--width", "32", "--num-frames", "5"]


def latency(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """The command as it is called in ``folder``."""
    command = [sys.executable, ROOT / "benchmarks" / "latency.py", *TINY, *arguments]
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_whole_report(tmp_path) -> None:
    done = latency(tmp_path, "--steps", "2", "--repeat", "1", "--baseline")
    assert done.returncode == 0, done.stderr
    *table, line = done.stdout.splitlines()
    assert next(row for row in table if row.startswith("... baseline")).startswith("... baseline, first run: ")
    report = json.loads((tmp_path / "latency-nano.json").read_text())
    assert json.loads(line) == report
    assert list(report["variants"]) == ["batched", "baseline"]
    assert report["versions"]["torch"] == torch.__version__
    agreement = report["agreement"]
    assert agreement["steps"] == 2
    assert agreement["exceeded"] == []
    assert 2 * agreement["reference"] <= agreement["allowed"] < 1e-4
    (floor,) = report["floors"].values()
    for name, variant in report["variants"].items():
        assert set(variant["seconds"]) == {"text", "audio", "image", "denoise", "decode", "encode", "total"}
        assert variant["step_p90"] >= variant["step_p50"] > variant["branch_forward"] > 0
        assert variant["second_call"]["text"] < variant["seconds"]["text"]
        assert variant["floor"] == "exact, sdpa, torch"
        assert variant["times_floor"] == pytest.approx(1000 * variant["branch_forward"] / floor["total"])
        assert 0 < variant["latents_error"] <= agreement["allowed"]
        assert variant["latents_error"] == agreement["errors"][name]
    assert set(report["ratio_to_baseline"]) == {"batched"}
    labels = ("cold start", "audio", "step p90", "branch forward", "second call", "real time x", "peak GiB", "TFLOP/s")
    for label in (*labels, "times floor", "% of floor", "latents error", "floor of batched, baseline: "):
        assert sum(row.startswith(label) for row in table) == 1, label
    assert table[-2].startswith("batched against baseline: ")
    assert table[-1] == "written: latency-nano.json, latency-nano.png"
    with Image.open(tmp_path / "latency-nano.png") as chart:
        assert chart.width > 500


def test_an_exact_variant_that_is_not_fails_after_everything_is_printed(
    benchmark_module, monkeypatch, tmp_path, capsys
) -> None:
    module = benchmark_module("latency")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "allowed_error", lambda reference, truth: 1e-9)
    monkeypatch.setattr("sys.argv", ["latency.py", *TINY, "--steps", "1", "--repeat", "1", "--mode", "T"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 1
    *table, line = capsys.readouterr().out.splitlines()
    assert "NOT EXACT: batched" in table
    assert json.loads(line)["agreement"]["exceeded"] == ["batched"]
    assert (tmp_path / "latency-nano.png").is_file()


def test_what_is_compared_with_what(benchmark_module, monkeypatch) -> None:
    module = benchmark_module("latency")

    def pipeline(precision: str, backend: str) -> Mock:
        return Mock(precision=precision, attention_backend=backend)

    exact = pipeline("exact", "cudnn")
    variants = {
        "wrong": module.Variant(exact, "batched"),
        "right": module.Variant(exact, "sequential"),
        "fp8": module.Variant(pipeline("fp8", "cudnn"), "batched"),
        "exact on cudnn-fp8": module.Variant(pipeline("exact", "cudnn-fp8"), "batched"),
        "baseline": module.Variant(exact, "baseline"),
    }
    size = 10_000
    truth, errors = torch.ones(size), {"wrong": 0.03, "right": 0.019, "fp8": 0.1, "exact on cudnn-fp8": 0.2}
    found = {variant: truth * (1 + errors.get(name, 0.01)) for name, variant in variants.items()}
    digits = []

    @contextmanager
    def with_more_digits(dit):
        digits.append("more")
        yield
        digits.clear()

    def final_latents(variant, args):
        return truth if digits else found[variant]

    monkeypatch.setattr(module, "with_more_digits", with_more_digits)
    monkeypatch.setattr(module, "final_latents", final_latents)
    args = argparse.Namespace(dit_engine=None, steps=None)
    agreement = module.compare(variants, exact, args)
    assert agreement["reference"] == agreement["errors"]["baseline"] == pytest.approx(0.01, rel=1e-4)
    assert agreement["allowed"] == pytest.approx(0.02, rel=1e-4)
    assert agreement["errors"]["fp8"] == pytest.approx(0.1, rel=1e-4)
    assert agreement["exceeded"] == ["wrong"]

    def too_large(variant, args):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(module, "final_latents", too_large)
    assert module.compare(variants, exact, args) == {"failed": "no room"}
    assert "add exact to --precision" in module.compare(variants, None, args)["skipped"]
    args.dit_engine = "dit.engine"
    assert "verify-engine" in module.compare(variants, exact, args)["skipped"]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_products_with_more_digits_are_nearer_to_float32_and_leave_the_weights_alone(benchmark_module, device) -> None:
    from humo_rt.model.dit import HumoDiT
    from tests.tiny import tiny_config

    module = benchmark_module("agreement")
    config = tiny_config(HUMO_1_7B).dit
    torch.manual_seed(0)
    dit = HumoDiT(config).to(device, torch.bfloat16).requires_grad_(False)
    inputs = {
        "x_BCTHW": torch.randn(1, 16, 3, 4, 6).bfloat16().float(),
        "timestep_B": torch.tensor([700]),
        "text_embeds": torch.randn(1, 5, config.text_dim),
        "audio": torch.randn(1, 3, config.audio_window, config.audio_bands, config.audio_dim),
        "condition": torch.randn(1, config.in_channels - 16, 3, 4, 6).bfloat16() if config.in_channels > 16 else None,
    }
    inputs = {name: x if x is None else x.to(device) for name, x in inputs.items()}
    narrow = dit(**inputs)
    with module.with_more_digits(dit):
        more = dit(**inputs)
    assert torch.equal(dit(**inputs), narrow)
    dit.float()
    dit.patch_embedding.bfloat16()  # what comes before the blocks is as it was
    truth = dit(**inputs)
    assert module.relative_error(more, truth) < module.relative_error(narrow, truth) / 4
    with module.with_more_digits(dit):
        assert 0 < module.relative_error(truth, dit(**inputs)) < 1e-5
    assert module.relative_error(narrow, more) < module.allowed_error(narrow, more)


@pytest.mark.parametrize(
    ("weights", "default", "given"),
    [("random", "色调艳丽", True), ("random", "", False), ("/weights", "色调艳丽", False)],
)
def test_random_weights_have_texts_as_long_as_their_own_would_be(benchmark_module, weights, default, given) -> None:
    module, seen = benchmark_module("latency"), {}
    pipeline = Mock(weights=weights, config=Mock(negative_prompt=default))
    pipeline.generate = lambda prompt, **options: seen.update(options, prompt=prompt)
    args = argparse.Namespace(mode="T", height=32, width=32, num_frames=5)
    module.generate(module.Variant(pipeline, "batched"), args)
    assert ("negative_prompt" in seen) == given
    if given:
        texts = [seen["prompt"], seen["negative_prompt"]]
        assert [len(ids) for ids in byte_tokenizer()(texts).input_ids] == [96, 126]


def test_published_presets_take_random_weights_unless_others_are_named(benchmark_module, capsys, tmp_path) -> None:
    module = benchmark_module("latency")

    def completed(preset: str, weights: str | None = None, **files: Path) -> argparse.Namespace:
        args = argparse.Namespace(**{"preset": preset, "weights": weights, "json": None, "png": None} | files)
        module.complete(args)
        return args

    assert completed("humo-17b").weights == "random"
    assert "humo-17b runs on seeded random weights" in capsys.readouterr().out
    assert completed("humo-17b", "folder").weights == "folder"
    assert completed("nano").weights is None
    assert capsys.readouterr().out == ""
    args = completed("some/folder")
    assert (args.json, args.png) == (Path("latency-folder.json"), Path("latency-folder.png"))
    args = completed("nano", json=tmp_path / "here.json")
    assert (args.json, args.png) == (tmp_path / "here.json", tmp_path / "here.png")
    for files in ({"json": tmp_path / "nowhere" / "x.json"}, {"png": tmp_path}, {"json": tmp_path / "same.png"}):
        with pytest.raises(SystemExit, match=r"cannot be written|are both"):
            completed("nano", **files)
    assert completed("nano", png=Path("there.png")).json == Path("latency-nano.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline", "--dit-engine", "dit.onnx"], "--baseline runs PyTorch's DiT"),
        (["--baseline", "--precision", "fp8"], "--baseline is compared with exact: add it to --precision"),
        (["--repeat", "0"], "--repeat 0 times nothing"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], message: str, tmp_path) -> None:
    done = latency(tmp_path, *arguments)
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
    q, k, v = ((torch.float8_e4m3fn, (1, rows, config.num_heads, config.head_dim), (1,)) for rows in (18, 256, 256))
    assert seen == [[q, k, v]] * config.num_layers * 2


def test_time_and_floor_are_of_one_branch_each(benchmark_module) -> None:
    """Steps of three branches, 2.4 s each, against 0.6 s: 4/3 of the floor; and 2 of fp8's own 0.4 s."""
    from humo_rt.runtime.trace import Trace

    module = benchmark_module("latency_report")
    trace = Trace(stages={}, steps=(2.4, 2.4, 2.4), branches=(3, 3, 3), peak_memory=None)
    settings = {"num_frames": 97, "height": 480, "width": 832, "image": ["one"]}
    variants = {
        floor: {"branch_forward": trace.branch_forward, "settings": settings, "floor": floor}
        for floor in ("fp8, cudnn-fp8", "exact, cudnn")
    }
    floors = {
        "exact, cudnn": module.median_floor([{"tokens": 40_560, "total": total} for total in (590.0, 600.0, 1800.0)]),
        "fp8, cudnn-fp8": {"tokens": 40_560, "total": 400.0},
    }
    module.add_rates(HUMO_1_7B.dit, variants, floors)
    assert module.branch_shape(settings) == (1, 16, 26, 60, 104)
    exact = variants["exact, cudnn"]
    assert exact["times_floor"] == pytest.approx(trace.step_p50 / (3 * 0.6))
    assert exact["percent_of_floor"] == pytest.approx(75)
    assert exact["tflops"] == pytest.approx(416 / 0.8, rel=0.01)
    assert variants["fp8, cudnn-fp8"]["times_floor"] == pytest.approx(2)


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
    with pytest.raises(ValueError, match="6 variants do not fit"):
        charts.save_stage_chart(path, {name: {"text": 1.0} for name in "abcdef"}, "Too many")
