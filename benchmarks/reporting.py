"""What every benchmark says beside its numbers, and how: a file where one is asked for, and JSON in the last line."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
# Whose kernels may run, by their names in a package index; those that are not installed are left out of a report.
PACKAGES = (
    "triton",
    "flash-attn-4",
    "quack-kernels",
    "nvidia-cudnn-frontend",
    "diffusers",
    "onnxruntime",
    "onnxruntime-gpu",
)


def report_of(device: torch.device, **found: Any) -> dict[str, Any]:
    """``found``, after the machine, the versions, the code and the command that it was found with."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "threads": None if cuda else torch.get_num_threads(),
        "versions": versions(device),
        "commit": commit(),
        "date": date.today().isoformat(),
        "command": " ".join(sys.argv),
        **found,
    }


def headline(report: dict[str, Any]) -> str:
    """The machine, in the words that a table starts with."""
    return f"{report['device']}, torch {report['versions']['torch']}"


def versions(device: torch.device) -> dict[str, Any]:
    """Of Python, of the packages that are there, and on a GPU of cuDNN and the driver."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if device.type == "cuda":
        found |= {"cudnn": torch.backends.cudnn.version(), "driver": _driver()}
    return found


def commit(root: Path = ROOT) -> str | None:
    """Of the code that runs, with "-dirty" when a file of it has changed since; None where there is no repository."""
    # Named, so that a repository around this folder, or the one of the shell's folder, is not taken for ours.
    repository = [f"--git-dir={root / '.git'}", f"--work-tree={root}"]
    return _said("git", *repository, "describe", "--always", "--dirty", "--exclude=*")


def save(report: dict[str, Any], file: Path | None) -> None:
    """Nothing without ``file``."""
    if file is not None:
        file.write_text(json.dumps(report, indent=1) + "\n")


def hand_over(report: dict[str, Any], file: Path | None) -> None:
    """Save, and print the last line."""
    save(report, file)
    print(json.dumps(report))


def _driver() -> str | None:
    said = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return said and said.splitlines()[0]


def _said(*command: str) -> str | None:
    """What ``command`` printed; None where it is missing or failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
