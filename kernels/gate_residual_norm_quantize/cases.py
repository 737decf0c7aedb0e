"""Inputs of gate, residual, norm and quantisation: those of ``gate_residual_norm``, which differ in the result only."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels.gate_residual_norm import cases as plain
from humo_rt.kernels.testing import Case

WORKLOADS = plain.WORKLOADS

Inputs = tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, bool, float, *tuple[Tensor, ...]]


def make_inputs(
    shape: plain.Stream | tuple[int, int, int], dtype: torch.dtype, device: torch.device, **kinds: bool
) -> Inputs:
    """As of ``gate_residual_norm``, without the result's dtype."""
    return _without_dtype(plain.make_inputs(shape, dtype, device, **kinds))


def bytes_moved(residual_BLD: Tensor, y_BLD: Tensor, *rest: object) -> int:
    """What has to cross the memory bus: every input once, the total, values of one byte and the scales once."""
    vectors = sum(each.nbytes for each in rest if isinstance(each, Tensor))
    rows = residual_BLD.numel() // residual_BLD.shape[-1]
    return 2 * residual_BLD.nbytes + y_BLD.nbytes + vectors + residual_BLD.numel() + 4 * rows


def _without_dtype(inputs: plain.Inputs) -> Inputs:
    return tuple(each for each in inputs if not isinstance(each, torch.dtype))


def _quantising(case: Case) -> Case:
    return Case(name=case.name, make=lambda device: _without_dtype(case.make(device)))


CASES = [_quantising(case) for case in plain.CASES]
