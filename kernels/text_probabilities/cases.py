"""Inputs of the text probabilities: those of the attention, without the values; awkward ones and short texts."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels.testing import Case
from humo_rt.kernels.text_attention import cases as attention
from humo_rt.kernels.text_probabilities import MAX_KEYS

Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None, float]

# Two branches with a prompt of one sentence; of nano, whose heads are narrower, half as long.
WORKLOADS = {
    "humo-1.7b 480x832": attention.Sizes(texts=(31, 31), tokens=40_560, heads=12, head_dim=128),
    "humo-17b 480x832": attention.Sizes(texts=(31, 31), tokens=40_560, heads=40, head_dim=128),
    "nano 128x128": attention.Sizes(texts=(15, 15), tokens=1664, heads=4, head_dim=64, text_len=64),
}


def make_inputs(sizes: attention.Sizes, dtype: torch.dtype, device: torch.device) -> Inputs:
    """The inputs of the attention, without the values."""
    return _without_values(attention.make_inputs(sizes, dtype, device))


def bytes_moved(q_BLD: Tensor, norm_weight_D: Tensor, k: Tensor, bias: Tensor | None, eps: float) -> int:
    """What has to cross the memory bus: every input and the result once."""
    result = q_BLD[..., 0].numel() * k.shape[1] * k.shape[2] * q_BLD.element_size()
    return q_BLD.nbytes + norm_weight_D.nbytes + k.nbytes + (0 if bias is None else bias.nbytes) + result


def _without_values(inputs: attention.Inputs) -> Inputs:
    q_BLD, norm_weight_D, k, _, bias, eps = inputs
    return q_BLD, norm_weight_D, k, bias, eps


CASES = [
    Case(name=case.name, make=lambda device, case=case: _without_values(case.make(device)))
    for case in attention.CASES
    if case.make(torch.device("cpu"))[2].shape[2] <= MAX_KEYS
]
