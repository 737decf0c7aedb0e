"""Inputs of a norm whose sum is not kept: those of ``gate_residual_norm`` without a gate."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels.gate_residual_norm import cases as plain
from humo_rt.kernels.testing import Case

WORKLOADS = {name: stream for name, stream in plain.WORKLOADS.items() if not stream.earlier}

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, bool, float, torch.dtype]


def make_inputs(
    shape: plain.Stream | tuple[int, int, int], dtype: torch.dtype, device: torch.device, *, modulated: bool = False
) -> Inputs:
    """As of ``gate_residual_norm``; affine, as the norm before audio is."""
    return _without_gate(plain.make_inputs(shape, dtype, device, gated=False, modulated=modulated))


def bytes_moved(residual_BLD: Tensor, y_BLD: Tensor, *rest: object) -> int:
    """What has to cross the memory bus: every input once, the norm once."""
    vectors = sum(each.nbytes for each in rest if isinstance(each, Tensor))
    (dtype,) = (each for each in rest if isinstance(each, torch.dtype))
    return residual_BLD.nbytes + y_BLD.nbytes + vectors + residual_BLD.numel() * dtype.itemsize


def _without_gate(inputs: tuple[object, ...]) -> Inputs:
    residual_BLD, y_BLD, _, *rest = inputs
    return residual_BLD, y_BLD, *rest


def _plain(case: Case) -> Case:
    return Case(name=case.name, make=lambda device: _without_gate(case.make(device)))


CASES = [_plain(case) for case in plain.CASES if "earlier" not in case.name]
