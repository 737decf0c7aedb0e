"""What a report says of the machine and of the code, so that nobody writes it by hand."""

from __future__ import annotations

import importlib
import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def reporting(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("reporting")


def test_a_report_names_machine_versions_code_and_command(reporting, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr("sys.argv", ["bench.py", "--runs", "3"])
    report = reporting.report_of(torch.device("cpu"), results=[1])
    assert report["versions"]["torch"] == torch.__version__
    assert report["versions"]["diffusers"] == version("diffusers")
    assert not {"driver", "cudnn"} & set(report["versions"])
    assert report["command"] == "bench.py --runs 3"
    assert report["results"] == [1]
    reporting.hand_over(report, tmp_path / "report.json")
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "report.json").read_text()) == report


def test_versions_of_a_gpu_and_of_what_is_installed(reporting, monkeypatch) -> None:
    monkeypatch.setattr(reporting, "PACKAGES", ("diffusers", "no-such-package-anywhere"))
    monkeypatch.setattr(reporting, "_said", lambda *command: "580.159.04\n580.159.04")
    found = reporting.versions(torch.device("cuda"))
    assert list(found) == ["python", "torch", "diffusers", "cudnn", "driver"]
    assert found["driver"] == "580.159.04"


def test_a_commit_is_that_of_the_code_and_says_when_a_file_has_changed(reporting, monkeypatch, tmp_path) -> None:
    def git(*arguments: str, folder: Path) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.com"]
        done = subprocess.run(["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    code, elsewhere = tmp_path / "code", tmp_path / "elsewhere"
    for folder in (code, elsewhere):
        folder.mkdir()
        git("init", "--quiet", folder=folder)
        (folder / "file").write_text(folder.name)
        git("add", "file", folder=folder)
        git("commit", "--quiet", "-m", folder.name, folder=folder)
    monkeypatch.chdir(elsewhere)
    clean = git("rev-parse", "--short", "HEAD", folder=code)
    assert reporting.commit(code) == clean
    (code / "report.json").write_text("{}")
    assert reporting.commit(code) == clean
    (code / "file").write_text("changed")
    assert reporting.commit(code) == f"{clean}-dirty"
    inside = code / "copy"
    inside.mkdir()
    assert reporting.commit(inside) is None
    monkeypatch.setenv("PATH", "")
    assert reporting.commit(code) is None
