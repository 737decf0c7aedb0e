"""Inputs of LayerNorm, modulation and quantisation: those of ``adaln_modulate``, which differ in the result only."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels.adaln_modulate import cases as plain
from humo_rt.kernels.testing import Case

WORKLOADS = plain.WORKLOADS

Inputs = tuple[Tensor, Tensor, Tensor, float]


def make_inputs(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Inputs:
    """As of ``adaln_modulate``, without the result's dtype."""
    return plain.make_inputs(shape, dtype, device)[:-1]


def bytes_moved(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float) -> int:
    """What has to cross the memory bus: every input once, values of one byte and the scales once."""
    rows = x_BLD.numel() // x_BLD.shape[-1]
    return x_BLD.nbytes + shift_B1D.nbytes + scale_B1D.nbytes + x_BLD.numel() + 4 * rows


def _without_dtype(case: Case) -> Case:
    return Case(name=case.name, make=lambda device: case.make(device)[:-1])


CASES = [_without_dtype(case) for case in plain.CASES]
