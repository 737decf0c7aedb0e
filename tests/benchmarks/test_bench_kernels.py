"""The kernel benchmark without a GPU: what it keeps of an op that fails, and what it says of the memory's bar."""

from __future__ import annotations

import argparse
import importlib
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.gelu_quantize import cases

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench_kernels(monkeypatch):
    """Imported as its scripts import one another, timing nothing, on the CPU."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("bench_kernels")
    monkeypatch.setattr(module, "CUDA", torch.device("cpu"))
    monkeypatch.setattr(module, "peak_bytes_per_second", lambda: 2e9)
    monkeypatch.setattr(module, "copy_bytes_per_second", lambda: 1e9)
    monkeypatch.setattr(module, "check", lambda op, backend, device: [])
    monkeypatch.setattr(module, "microseconds", lambda run, inputs, runs: [1.0, 2.0, 3.0] if run(*inputs) else [])
    monkeypatch.setattr(module, "microseconds_in_a_row", lambda run, each: [1.0] if all(each) else [])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=1000))
    monkeypatch.setattr(module, "wait_for_turn", lambda mark: None)
    monkeypatch.setattr(cases, "WORKLOADS", {"humo-1.7b": (2, 100), "nano": (1, 50)})
    return module


@pytest.fixture
def implementations(monkeypatch):
    """What the registry gives for each backend, in place of what a GPU would run."""
    found = {"reference": registry.implementation("gelu_quantize", "reference")}
    monkeypatch.setattr(registry, "implementation", lambda op, backend: found[backend])
    return found


def test_a_row_for_each_backend_and_workload(bench_kernels, implementations, tmp_path):
    implementations["triton"] = implementations["reference"]
    record = bench_kernels.Record(tmp_path / "rows.json")
    bench_kernels.bench("gelu_quantize", ["reference", "triton", "cuda"], record)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert rows == record.rows
    places = [(row["backend"], row["workload"]) for row in rows]
    backends, moved = ("triton", "reference"), 200 * 2 + 200 + 2 * 4
    assert places[:2] == [(backend, bench_kernels.CASES) for backend in backends]
    assert places[2:] == [(backend, workload) for backend in backends for workload in ("humo-1.7b", "nano")]
    row = rows[2]
    assert row["bytes"] == moved
    assert row["median"] == 2.0
    assert row["gb_per_second"] == pytest.approx(moved / 2e-6 / 1e9)
    assert row["percent_of_copy"] == pytest.approx(100 * moved / 2e-6 / 1e9)
    assert row["in_a_row"] == 1.0
    assert row["percent_of_copy_in_a_row"] == 2 * row["percent_of_copy"]
    assert "in_a_row" not in rows[4]  # the reference
    assert row["percent_of_peak"] == pytest.approx(50 * moved / 2e-6 / 1e9)


def test_a_kernel_that_is_wrong_is_not_timed_and_one_that_fails_hides_nothing(
    bench_kernels, implementations, tmp_path, monkeypatch
):
    def narrow(x):
        raise RuntimeError("too wide")

    def check(op, backend, device):
        assert backend == "triton", "error 3 > 2"
        return []

    monkeypatch.setattr(bench_kernels, "check", check)
    monkeypatch.setattr(bench_kernels, "written", lambda op, backend: True)
    implementations |= {"cuda": narrow, "triton": narrow}
    record = bench_kernels.Record(tmp_path / "rows.json")
    bench_kernels.bench("gelu_quantize", ["cuda", "triton", "reference"], record)
    found = [(row["backend"], row["workload"], row.get("failed", "")[:22]) for row in record.rows]
    assert found == [
        ("cuda", bench_kernels.CASES, "AssertionError: error "),
        ("triton", bench_kernels.CASES, ""),
        ("reference", bench_kernels.CASES, ""),
        ("triton", "before it is timed", "RuntimeError: too wide"),
        ("reference", "humo-1.7b", ""),
        ("reference", "nano", ""),
    ]


def test_what_a_backend_is_not_written_for_is_said(bench_kernels, implementations, tmp_path, monkeypatch):
    implementations["cuda"] = implementations["reference"]
    monkeypatch.setattr(bench_kernels, "taken", lambda op, backend, inputs: backend == "reference")
    monkeypatch.setattr(bench_kernels, "written", lambda op, backend: True)
    record = bench_kernels.Record(tmp_path / "rows.json")
    bench_kernels.bench("gelu_quantize", ["cuda", "reference"], record)
    said = [(row["backend"], row["workload"]) for row in record.rows if "absent" in row]
    assert said == [("cuda", "humo-1.7b"), ("cuda", "nano")]
    assert [row["workload"] for row in record.rows if "median" in row] == ["humo-1.7b", "nano"]


def test_what_takes_the_compiler_too_long_is_given_up(bench_kernels, implementations, tmp_path, monkeypatch):
    def endless(x):
        while True:
            time.sleep(0.01)

    monkeypatch.setattr(bench_kernels, "runnable", lambda op, backend: endless)
    monkeypatch.setattr(bench_kernels, "COMPILING", 0.1)
    record = bench_kernels.Record(tmp_path / "rows.json")
    bench_kernels.bench("gelu_quantize", ["compiled"], record)
    assert record.rows[-1]["failed"] == "TimeoutError: not done after 0.1 s"
    assert record.rows[-1]["workload"] == "before it is timed"


def test_a_library_has_a_row_for_each_of_its_calls_or_says_why_there_is_none(bench_kernels, tmp_path, monkeypatch):
    def calls(*made):
        monkeypatch.setitem(bench_kernels.LIBRARY_CALLS, "gelu_quantize", made)
        record = bench_kernels.Record(tmp_path / "rows.json")
        bench_kernels.bench("gelu_quantize", ["library"], record)
        return record.rows

    reference, call = registry.implementation("gelu_quantize", "reference"), bench_kernels.Call
    right = call(library="right", run=reference, given=lambda x: (x.float(),), differs="x in float32")
    wrong = call(library="wrong", run=lambda x: reference(2 * x))
    away = call(library="away", run=reference, package="flash-attn-2")
    checked, refused, absent, *timed = calls(right, wrong, away)
    assert "failed" not in checked
    assert refused["library"] == "wrong"
    assert refused["failed"].startswith("AssertionError: nano: error")
    assert absent["absent"].startswith("flash-attn-2 cannot be loaded")
    assert [(row["library"], row["workload"]) for row in timed] == [("right", "humo-1.7b"), ("right", "nano")]
    assert timed[0]["differs"] == "x in float32"
    monkeypatch.setitem(bench_kernels.LIBRARY_CALLS, "gelu_quantize", "nobody does this")
    record = bench_kernels.Record(tmp_path / "rows.json")
    bench_kernels.bench("gelu_quantize", ["library"], record)
    assert record.rows == [{"op": "gelu_quantize", "backend": "library", "workload": "", "absent": "nobody does this"}]


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {folder!r})
from own_process import wait_for_turn
rows = Path(sys.argv[sys.argv.index("--rows") + 1])
op = sys.argv[sys.argv.index("--op") + 1]
{before}
rows.write_text({left!r})
wait_for_turn(rows.with_suffix(".prepared"))
(rows.parent / "turns").open("a").write(op + " ")
{after}
"""


def run_script(bench_kernels, monkeypatch, tmp_path, *ops, left="[]", before="", after=""):
    """The rows of every op, whose processes run a script instead of the benchmark."""
    script = tmp_path / "instead.py"
    script.write_text(SCRIPT.format(folder=str(ROOT / "benchmarks"), left=left, before=before, after=after))
    monkeypatch.setattr(bench_kernels, "__file__", str(script))
    args = argparse.Namespace(op=ops, backends=["triton", "compiled"], seconds=5)
    with bench_kernels.processes(args, tmp_path) as started:
        return {op: bench_kernels.rows_of(op, process, tmp_path, 3) for op, process in started.items()}


@pytest.mark.parametrize(
    ("ending", "said"), [("time.sleep(60)", "not done after"), ("sys.exit('no memory')", "no memory")]
)
def test_what_an_op_measured_before_it_was_stopped_is_kept(bench_kernels, tmp_path, monkeypatch, ending, said):
    record = bench_kernels.Record(tmp_path / "rows.json")
    with record.row("gelu_quantize", "triton", "one") as row:
        row["median"] = 1.0
    with record.row("gelu_quantize", "compiled", "one"):
        left = record.path.read_text()
    found = run_script(bench_kernels, monkeypatch, tmp_path, "gelu_quantize", left=left, after=ending)
    measured, stopped = found["gelu_quantize"]
    assert measured == {"op": "gelu_quantize", "backend": "triton", "workload": "one", "median": 1.0}
    assert stopped["backend"] == "compiled"
    assert said in stopped["failed"]


def test_ops_prepare_together_are_timed_in_turn_and_one_that_is_late_is_stopped(bench_kernels, tmp_path, monkeypatch):
    ops = ("rms_silu", "causal_conv", "guided_update")
    before = "time.sleep(60 if op == 'causal_conv' else 0)"
    found = run_script(bench_kernels, monkeypatch, tmp_path, *ops, before=before)
    assert (tmp_path / "turns").read_text().split() == ["rms_silu", "guided_update"]
    late = {"op": "causal_conv", "backend": "", "workload": "", "failed": "not prepared in time"}
    assert found == {"rms_silu": [], "causal_conv": [late], "guided_update": []}


def test_an_op_that_ends_before_its_first_row_is_reported(bench_kernels, tmp_path, monkeypatch):
    found = run_script(bench_kernels, monkeypatch, tmp_path, "rms_silu", before="raise SystemExit('no driver')")
    assert found == {"rms_silu": [{"op": "rms_silu", "backend": "", "workload": "", "failed": "no driver"}]}


def test_the_bar_is_for_the_fastest_kernel_of_memory_bound_ops_at_full_size(bench_kernels, capsys):
    def row(op, workload, backend, median, percent):
        shares = {"percent_of_copy": percent - 2, "percent_of_copy_in_a_row": percent}
        speeds = {**shares, "in_a_row": median, "copy_gb_per_second": 2000, "peak_gb_per_second": 3000}
        return {"op": op, "workload": workload, "backend": backend, "median": median, **speeds}

    rows = [
        row("rms_silu", "humo-1.7b", "triton", 10, 79.0),
        row("rms_silu", "humo-1.7b", "compiled", 9, 90.0),
        row("rms_silu", "humo-1.7b", "library", 25, 90.0) | {"library": "F.rms_norm", "differs": "a narrow weight"},
        row("rms_silu", "nano", "triton", 10, 5.0),
        row("guided_update", "humo-17b", "cuda", 10, 81.0),
        row("guided_update", "humo-17b", "triton", 11, 74.0),
        row("causal_conv", "480x832", "cuda", 10, 20.0),
        row("text_attention", "humo-1.7b 480x832", "cuda", 10, 54.0),
        row("text_attention", "humo-1.7b 480x832 full text", "triton", 10, 12.0),
        {"op": "gelu_quantize", "workload": "humo-17b", "backend": "triton", "median": 9, "failed": "no room"},
    ]
    bench_kernels.print_summary(rows)
    _, ratios, unbound, of_a_workload, failed, single, in_a_row = capsys.readouterr().out.splitlines()
    library = "library F.rms_norm, with a narrow weight 2.50x"
    assert ratios == f"rms_silu humo-1.7b: triton 1x, compiled 0.90x, {library}"
    assert unbound.startswith("causal_conv is not bound by memory")
    assert of_a_workload.startswith("text_attention humo-1.7b 480x832 full text is not bound by memory")
    assert failed == "failed: gelu_quantize humo-17b (triton)"
    missed = "rms_silu humo-1.7b (triton 77.0 %), guided_update humo-17b (cuda 79.0 %)"
    assert single == f"below 80 % of copy in single runs: {missed}, text_attention humo-1.7b 480x832 (cuda 52.0 %)"
    missed = "rms_silu humo-1.7b (triton 79.0 %), text_attention humo-1.7b 480x832 (cuda 54.0 %)"
    assert in_a_row == f"below 80 % of copy in a row: {missed}"


def test_what_is_not_held_to_the_bar_is_an_op_or_one_of_its_workloads():
    known = set(registry.OPS)
    for op in registry.OPS:
        cases = importlib.import_module(f"humo_rt.kernels.{op}.cases")
        known |= {f"{op} {workload}" for workload in cases.WORKLOADS}
    assert set(importlib.import_module("kernel_table").BOUND_BY_ARITHMETIC) <= known
