"""Inputs of RMSNorm and rotary positions: awkward ones for tests, real ones for benchmarks."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from humo_rt.kernels.testing import in_each_dtype

EPS = 1e-6
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Branches, tokens of 97 frames with one reference, heads, head width.
WORKLOADS = {
    "humo-1.7b 480x832": (3, 40_560, 12, 128),
    "humo-17b 720x1280": (1, 93_600, 40, 128),
    "nano 128x128": (4, 1664, 4, 64),
}

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int, float]


def make_inputs(shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> Inputs:
    """q and k as slices of one product with v, weights around one, the angles of a turning table."""
    generator = torch.Generator(device).manual_seed(sum(shape))
    batch, length, heads, head_dim = shape
    width = heads * head_dim
    qkv = torch.randn(batch, length, 3 * width, generator=generator, device=device).to(dtype) * 2
    weights = 1 + 0.2 * torch.randn(2, width, generator=generator, device=device)
    weight_q_D, weight_k_D = weights
    angles_LP = 100 * torch.rand(length, head_dim // 2, generator=generator, device=device)
    return *qkv.split(width, dim=-1)[:2], weight_q_D, weight_k_D, angles_LP.cos(), angles_LP.sin(), heads, EPS


def bytes_moved(q_BLD: Tensor, k_BLD: Tensor, *rest: object) -> int:
    """What has to cross the memory bus: every input once, both results once."""
    others = sum(each.nbytes for each in rest if isinstance(each, Tensor))
    return 2 * (q_BLD.nbytes + k_BLD.nbytes) + others


def _narrow_weights(dtype: torch.dtype, device: torch.device) -> Inputs:
    q_BLD, k_BLD, weight_q_D, weight_k_D, *rest = make_inputs((3, 4, 4, 64), dtype, device)
    return q_BLD.contiguous(), k_BLD, weight_q_D.to(dtype), weight_k_D.to(dtype), *rest


def _transposed(dtype: torch.dtype, device: torch.device) -> Inputs:
    q_BLD, k_BLD, *rest = make_inputs((1, 16, 2, 8), dtype, device)
    return q_BLD.transpose(1, 2), k_BLD.transpose(1, 2), *rest


def _strided(dtype: torch.dtype, device: torch.device) -> Inputs:
    q_BLD, k_BLD, weight_q_D, weight_k_D, cos_LP, sin_LP, *rest = make_inputs((3, 6, 3, 64), dtype, device)
    return q_BLD[:, ::2], k_BLD[:, 1::2], weight_q_D, weight_k_D, cos_LP[::2], sin_LP[::2], *rest


SHAPES = [
    (1, 1, 1, 2),
    (3, 2, 4, 64),
    (8, 1, 3, 128),
    (2, 3, 5, 200),
    (1, 5, 12, 128),
    (1, 3, 40, 128),
    (1, 11, 1, 10),
]
SPECIAL = {"narrow weights": _narrow_weights, "strided": _strided, "transposed": _transposed}
CASES = in_each_dtype({str(shape): partial(make_inputs, shape) for shape in SHAPES} | SPECIAL, DTYPES)
