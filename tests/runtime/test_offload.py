"""Encoders that visit a device: they work there and leave nothing behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from humo_rt.runtime.offload import visiting

THERE = torch.device("cuda")


def tied() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    return module


def addresses(module: nn.Module) -> list[int]:
    return [tensor.data_ptr() for tensor in (*module.parameters(), *module.buffers())]


@pytest.fixture
def copies(monkeypatch) -> list[torch.Tensor]:
    """What moves to another device, which this machine does not need: a copy stands for it."""
    made = []

    def to(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        assert device == THERE
        made.append(tensor.clone())
        return made[-1]

    monkeypatch.setattr(torch.Tensor, "to", to)
    return made


def test_a_visitor_is_there_as_a_whole_and_comes_home_uncopied(copies):
    module = tied()
    home = addresses(module)
    with visiting(module, THERE):
        assert addresses(module) == [tensor.data_ptr() for tensor in copies]
        assert module[2].weight is module[0].weight
    assert addresses(module) == home
    assert len(copies) == len(home)


def test_a_visitor_that_fails_comes_home(copies):
    module = tied()
    home = addresses(module)
    with pytest.raises(RuntimeError, match="broke"), visiting(module, THERE):
        raise RuntimeError("broke")
    assert addresses(module) == home


def test_who_is_there_already_is_not_copied():
    module = tied()
    home = addresses(module)
    with visiting(module, torch.device("cpu")):
        assert addresses(module) == home
