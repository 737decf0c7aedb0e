"""The fp8 benchmarks as they are called, on a few tokens of the nano model, and the similarity they report."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from humo_rt.sampling.branches import GuidedModel

ROOT = Path(__file__).parents[2]
TINY = ["--preset", "nano", "--layers", "2", "--device", "cpu", "--height", "32", "--width", "32", "--num-frames", "5"]


def test_errors_of_blocks_branches_and_guidance(tmp_path) -> None:
    command = [sys.executable, ROOT / "benchmarks" / "fp8_quality.py", *TINY, "--runs", "1"]
    command += ["--exact-layers", "none", "0.*,1.*", "--json", str(tmp_path / "report.json")]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert json.loads(done.stdout.splitlines()[-1]) == report
    rows = {row["variant"]: row for row in report["results"]}
    assert list(rows) == ["exact", "fp8", "fp8 but none", "fp8 but 0.*,1.*", "fp8 cudnn-fp8"]
    assert "needs an NVIDIA GPU" in rows["fp8 cudnn-fp8"]["failed"]
    assert rows["exact"]["guided"] == 0
    for name in ("fp8", "fp8 but none"):
        assert 1e-3 < max(rows[name]["branches"].values()) < 0.1
        assert len(rows[name]["blocks"]) == 2
    assert max(rows["fp8 but 0.*,1.*"]["branches"].values()) < 1e-2
    assert rows["fp8"]["guided"] < rows["fp8 but none"]["guided"]


def test_blocks_are_compared_in_what_the_last_one_computes(monkeypatch, benchmark_module, tmp_path) -> None:
    """On a GPU branches share inputs, and the last block leaves reference frames out."""
    module, file = benchmark_module("fp8_quality"), tmp_path / "report.json"
    init = GuidedModel.__init__

    def share_inputs(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.shares_inputs = True

    monkeypatch.setattr(GuidedModel, "__init__", share_inputs)
    monkeypatch.setattr(sys, "argv", ["fp8_quality.py", *TINY, "--runs", "1", "--json", str(file)])
    module.main()
    rows = {row["variant"]: row for row in json.loads(file.read_text())["results"]}
    assert "failed" not in rows["fp8"]
    assert all(0 < block["output"] < 0.1 for block in rows["fp8"]["blocks"])


def test_what_was_measured_before_a_failure_is_saved(monkeypatch, benchmark_module, tmp_path) -> None:
    module, file = benchmark_module("fp8_quality"), tmp_path / "report.json"

    def fails(*_: object) -> None:
        raise RuntimeError("no time")

    monkeypatch.setattr(module, "milliseconds", fails)
    monkeypatch.setattr(sys, "argv", ["fp8_quality.py", *TINY, "--no-blocks", "--json", str(file)])
    with pytest.raises(RuntimeError, match="no time"):
        module.main()
    rows = {row["variant"]: row for row in json.loads(file.read_text())["results"]}
    assert max(rows["fp8"]["branches"].values()) > 0
    assert "median" not in rows["fp8"]


def test_similarity(monkeypatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("fp8_video")
    a = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    assert module.ssim(a, a) == pytest.approx(1)
    assert module.ssim(a, 1 - a) < 0
    assert 0.5 < module.ssim(a, a + 0.1 * torch.randn(a.shape, generator=torch.Generator().manual_seed(1))) < 0.99
    assert module.compared([a], [a + 0.1]) == {
        "psnr": pytest.approx(20, abs=0.01),
        "ssim": pytest.approx(0.98, abs=0.02),
    }
