"""The kernel benchmark without a GPU: what it keeps of an op that fails, and what it says of the memory's bar."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

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
    monkeypatch.setattr(module, "copy_bytes_per_second", lambda moved: 1e9)
    monkeypatch.setattr(module, "check", lambda op, backend, device: [])
    monkeypatch.setattr(module, "microseconds", lambda run, inputs: [1.0, 2.0, 3.0] if run(*inputs) else [])
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
    workloads = (bench_kernels.CASES, "humo-1.7b", "nano")
    assert places == [(backend, workload) for backend in ("triton", "reference") for workload in workloads]
    moved = 200 * 2 + 200 + 2 * 4
    assert rows[1]["bytes"] == moved
    assert rows[1]["median"] == 2.0
    assert rows[1]["percent_of_copy"] == pytest.approx(100 * moved / 2e-6 / 1e9)
    assert rows[1]["percent_of_equal_copy"] == rows[1]["percent_of_copy"]
    assert rows[1]["percent_of_peak"] == pytest.approx(50 * moved / 2e-6 / 1e9)


def test_a_kernel_that_is_wrong_is_not_timed_and_one_that_fails_hides_nothing(
    bench_kernels, implementations, tmp_path, monkeypatch
):
    def narrow(x):
        if x.shape[-1] == 100:
            raise RuntimeError("too wide")
        return implementations["reference"](x)

    def check(op, backend, device):
        assert backend == "triton", "error 3 > 2"
        return []

    monkeypatch.setattr(bench_kernels, "check", check)
    monkeypatch.setattr(bench_kernels, "written", lambda op, backend: True)
    implementations |= {"cuda": narrow, "triton": narrow}
    record = bench_kernels.Record(tmp_path / "rows.json")
    bench_kernels.bench("gelu_quantize", ["cuda", "triton"], record)
    found = [(row["backend"], row["workload"], row.get("failed", "")[:22]) for row in record.rows]
    assert found == [
        ("cuda", bench_kernels.CASES, "AssertionError: error "),
        ("triton", bench_kernels.CASES, ""),
        ("triton", "humo-1.7b", "RuntimeError: too wide"),
        ("triton", "nano", ""),
    ]


@pytest.mark.parametrize(
    ("ending", "said"), [("time.sleep(60)", "not done after"), ("sys.exit('no memory')", "no memory")]
)
def test_what_an_op_measured_before_it_was_stopped_is_kept(bench_kernels, tmp_path, monkeypatch, ending, said):
    record = bench_kernels.Record(tmp_path / "rows.json")
    with record.row("gelu_quantize", "triton", "one") as row:
        row["median"] = 1.0
    with record.row("gelu_quantize", "compiled", "one"):
        left = record.path.read_text()
    script = tmp_path / "stopped.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        f"Path(sys.argv[sys.argv.index('--rows') + 1]).write_text({left!r})\n"
        f"{ending}\n"
    )
    monkeypatch.setattr(bench_kernels, "__file__", str(script))
    args = argparse.Namespace(backends=["triton", "compiled"], seconds=5)
    measured, stopped = bench_kernels.in_own_process("gelu_quantize", args, tmp_path)
    assert measured == {"op": "gelu_quantize", "backend": "triton", "workload": "one", "median": 1.0}
    assert stopped["backend"] == "compiled"
    assert said in stopped["failed"]


def test_an_op_that_ends_before_its_first_row_is_reported(bench_kernels, tmp_path, monkeypatch):
    script = tmp_path / "fails.py"
    script.write_text("raise SystemExit('no driver')")
    monkeypatch.setattr(bench_kernels, "__file__", str(script))
    (row,) = bench_kernels.in_own_process("rms_silu", argparse.Namespace(backends=[], seconds=60), tmp_path)
    assert row == {"op": "rms_silu", "backend": "", "workload": "", "failed": "no driver"}


def test_the_bar_is_for_the_fastest_kernel_of_memory_bound_ops_at_full_size(bench_kernels, capsys):
    def row(op, workload, backend, median, percent):
        speeds = {"percent_of_equal_copy": percent, "copy_gb_per_second": 2000, "peak_gb_per_second": 3000}
        return {"op": op, "workload": workload, "backend": backend, "median": median, **speeds}

    rows = [
        row("rms_silu", "humo-1.7b", "triton", 10, 79.0),
        row("rms_silu", "humo-1.7b", "compiled", 9, 90.0),
        row("rms_silu", "nano", "triton", 10, 5.0),
        row("guided_update", "humo-17b", "cuda", 10, 81.0),
        row("guided_update", "humo-17b", "triton", 11, 74.0),
        row("causal_conv", "480x832", "cuda", 10, 20.0),
        {"op": "gelu_quantize", "workload": "humo-17b", "backend": "triton", "failed": "too wide"},
    ]
    bench_kernels.print_summary(rows)
    *_, unbound, failed, last = capsys.readouterr().out.splitlines()
    assert unbound.startswith("causal_conv is not bound by memory")
    assert failed == "failed: gelu_quantize humo-17b (triton)"
    assert last == "below 80 % of an equal copy: rms_silu humo-1.7b (triton 79.0 %)"
    assert set(bench_kernels.BOUND_BY_ARITHMETIC) <= set(registry.OPS)
