"""Inputs of LayerNorm and modulation: awkward ones for tests, real ones for benchmarks."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from humo_rt.kernels.testing import in_each_dtype

EPS = 1e-6
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Branches, tokens of 97 frames with one reference, width.
WORKLOADS = {
    "humo-1.7b 480x832": (3, 40_560, 1536),
    "humo-17b 720x1280": (1, 93_600, 5120),
    "nano 128x128": (4, 1664, 256),
}

Inputs = tuple[Tensor, Tensor, Tensor, float, torch.dtype]


def make_inputs(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> Inputs:
    """A float32 residual stream with an offset, as a block has it, and the first two of six modulation vectors."""
    generator = torch.Generator(device).manual_seed(sum(shape))
    batch, _, width = shape
    x_BLD = torch.randn(shape, generator=generator, device=device) * 3 + 0.5
    modulation_B6D = torch.randn(batch, 6, width, generator=generator, device=device)
    shift_B1D, scale_B1D = modulation_B6D.chunk(6, dim=1)[:2]
    return x_BLD, shift_B1D, scale_B1D, EPS, dtype


def bytes_moved(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float, dtype: torch.dtype) -> int:
    """What has to cross the memory bus: every input once, the result once."""
    return x_BLD.nbytes + shift_B1D.nbytes + scale_B1D.nbytes + x_BLD.numel() * dtype.itemsize


def _stream_in(dtype: torch.dtype, device: torch.device) -> Inputs:
    x_BLD, shift_B1D, scale_B1D, *rest = make_inputs((2, 7, 1000), dtype, device)
    return x_BLD.to(dtype), shift_B1D.to(dtype), scale_B1D.to(dtype), *rest


def _strided(dtype: torch.dtype, device: torch.device) -> Inputs:
    x_BLD, shift_B1D, scale_B1D, *rest = make_inputs((3, 40, 256), dtype, device)
    return x_BLD[:, 1::3, 4:], shift_B1D[:1, :, 4:], scale_B1D[..., 4:], *rest


def _transposed(dtype: torch.dtype, device: torch.device) -> Inputs:
    x_BLD, shift_B1D, scale_B1D, *rest = make_inputs((3, 64, 64), dtype, device)
    return x_BLD.transpose(1, 2), shift_B1D, scale_B1D, *rest


SHAPES = [(1, 1, 64), (1, 1, 2), (3, 21, 256), (8, 3, 1000), (2, 100, 63), (1, 9, 1536), (1, 3, 5120)]
SPECIAL = {"stream in": _stream_in, "strided": _strided, "transposed": _transposed}
CASES = in_each_dtype({str(shape): partial(make_inputs, shape) for shape in SHAPES} | SPECIAL, DTYPES)
