"""Inputs of RMSNorm, rotary positions and quantisation: those of ``qk_norm_rope`` and the scales of its weights."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels.qk_norm_rope import cases as plain
from humo_rt.kernels.qk_norm_rope_quantize import bound_scale
from humo_rt.kernels.testing import Case

WORKLOADS = plain.WORKLOADS

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int, float, Tensor, Tensor, int]


def make_inputs(shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> Inputs:
    """As of ``qk_norm_rope``, and the scales; no rows after the keys."""
    return _with_scales(plain.make_inputs(shape, dtype, device), 0)


def bytes_moved(q_BLD: Tensor, k_BLD: Tensor, *rest: object) -> int:
    """What has to cross the memory bus: every input once, both results of one byte once."""
    others = sum(each.nbytes for each in rest if isinstance(each, Tensor))
    return sum(x.numel() * (x.element_size() + 1) for x in (q_BLD, k_BLD)) + others


def _with_scales(inputs: plain.Inputs, padding: int) -> Inputs:
    return *inputs, bound_scale(inputs[2]), bound_scale(inputs[3]), padding


def _case(case: Case, padding: int) -> Case:
    name = f"{case.name}, {padding} rows of zeros" if padding else case.name
    return Case(name=name, make=lambda device: _with_scales(case.make(device), padding))


CASES = [_case(case, 0) for case in plain.CASES] + [_case(case, 3) for case in plain.CASES[:3]]
