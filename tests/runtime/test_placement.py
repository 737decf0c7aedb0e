"""Devices by name, also those that are not there."""

from __future__ import annotations

import pytest
import torch

from humo_rt.runtime.placement import chosen_device


@pytest.mark.parametrize(("gpus", "default"), [(0, "cpu"), (2, "cuda")])
def test_the_first_gpu_or_the_cpu(monkeypatch, gpus: int, default: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert chosen_device() == torch.device(default)
    assert chosen_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="unknown device 'gpu': use cuda"):
        chosen_device("gpu")
    with pytest.raises(RuntimeError, match="no GPU cuda:2: this machine has 2" if gpus else "no usable NVIDIA GPU"):
        chosen_device("cuda:2")
    if gpus:
        assert chosen_device("cuda:1") == torch.device("cuda:1")
