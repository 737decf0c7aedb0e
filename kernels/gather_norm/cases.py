"""Inputs of gathering and norm: awkward ones for tests, real ones for benchmarks."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from humo_rt.kernels.testing import in_each_dtype

EPS = 1e-6
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHARE = 0.19  # of the tokens: faces of 15 % of a frame, and the reference frame as a whole

# Branches, tokens of 97 frames with one reference, width.
WORKLOADS = {
    "humo-1.7b 480x832": (3, 40_560, 1536),
    "humo-17b 720x1280": (1, 93_600, 5120),
    "nano 128x128": (4, 1664, 256),
}

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, float, torch.dtype]


def make_inputs(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, share: float = SHARE) -> Inputs:
    """A float32 residual stream with an offset, as a block has it, and some of its tokens."""
    generator = torch.Generator(device).manual_seed(sum(shape))
    x_BLD = torch.randn(shape, generator=generator, device=device) * 3 + 0.5
    shift_D, scale_D = torch.randn(2, shape[2], generator=generator, device=device).to(dtype)
    return x_BLD, some_rows(shape[1], share, generator), shift_D, scale_D, EPS, dtype


def some_rows(length: int, share: float, generator: torch.Generator) -> Tensor:
    """Ascending numbers of a ``share`` of the rows, at least one."""
    order = torch.randperm(length, generator=generator, device=generator.device)
    return order[: max(1, round(share * length))].sort().values


def bytes_moved(x_BLD: Tensor, rows_M: Tensor, shift_D: Tensor, scale_D: Tensor, eps: float, dtype: torch.dtype) -> int:
    """What has to cross the memory bus: every row that is asked for once, the result once."""
    elements = x_BLD[:, 0].numel() * len(rows_M)
    return elements * (x_BLD.element_size() + dtype.itemsize) + rows_M.nbytes + shift_D.nbytes + scale_D.nbytes


def _strided(dtype: torch.dtype, device: torch.device) -> Inputs:
    x_BLD, rows_M, shift_D, scale_D, *rest = make_inputs((3, 40, 256), dtype, device)
    return x_BLD[:, 1::3, 4:], rows_M[::2] // 4, shift_D[4:], scale_D[4:], *rest


def _unordered(dtype: torch.dtype, device: torch.device) -> Inputs:
    x_BLD, rows_M, *rest = make_inputs((3, 64, 63), dtype, device, share=1.0)
    return x_BLD.to(dtype), rows_M.flip(0), *rest


SHAPES = [(1, 1, 64), (3, 21, 256), (8, 3, 1000), (2, 100, 63), (1, 9, 1536), (1, 3, 5120)]
SPECIAL = {"strided": _strided, "unordered narrow stream": _unordered}
CASES = in_each_dtype({str(shape): partial(make_inputs, shape) for shape in SHAPES} | SPECIAL, DTYPES)
