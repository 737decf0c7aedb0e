"""Inputs of the audio face probabilities: those of the attention, without the values."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels.audio_face_attention import cases as attention
from humo_rt.kernels.testing import Case

Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None, float]
WORKLOADS = attention.WORKLOADS


def make_inputs(sizes: attention.Sizes, dtype: torch.dtype, device: torch.device) -> Inputs:
    """The inputs of the attention, without the values."""
    return _without_values(attention.make_inputs(sizes, dtype, device))


def bytes_moved(q_BLD: Tensor, norm_weight_D: Tensor, k: Tensor, mask: Tensor | None, eps: float) -> int:
    """What has to cross the memory bus: every input and the result once."""
    speakers, _, _, heads, keys, _ = k.shape
    result = q_BLD[..., 0].numel() * speakers * heads * keys * q_BLD.element_size()
    return q_BLD.nbytes + norm_weight_D.nbytes + k.nbytes + (0 if mask is None else mask.nbytes) + result


def _without_values(inputs: attention.Inputs) -> Inputs:
    q_BLD, norm_weight_D, k, _, mask, eps = inputs
    return q_BLD, norm_weight_D, k, mask, eps


CASES = [
    Case(name=case.name, make=lambda device, case=case: _without_values(case.make(device))) for case in attention.CASES
]
