"""What every benchmark says beside its numbers, and how: a file where one is asked for, and JSON in the last line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch


def report_of(device: torch.device, **found: Any) -> dict[str, Any]:
    """``found``, after the card, the versions and the command that it was found with."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "command": " ".join(sys.argv),
        **found,
    }


def save(report: dict[str, Any], file: Path | None) -> None:
    """Nothing without ``file``."""
    if file is not None:
        file.write_text(json.dumps(report, indent=1) + "\n")


def hand_over(report: dict[str, Any], file: Path | None) -> None:
    """Save, and print the last line."""
    save(report, file)
    print(json.dumps(report))
