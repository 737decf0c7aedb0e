"""Quantisation of a tile of whole rows, for the Triton code of every op that writes e4m3 rows. Imports Triton."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from humo_rt.kernels import float8

LARGEST = tl.constexpr(float8.LARGEST)
SMALLEST = tl.constexpr(float8.SMALLEST)


@triton.jit
def store_quantized(values_ptr, scale_ptr, x, at, at_row, inside, inside_row):
    """Write rows ``x`` (R, C) at ``at`` in e4m3 and their scales at ``at_row`` (R,), by the rule of ``float8``."""
    amax = largest(tl.where(inside, x, 0.0))
    store_values(values_ptr, x, amax, at, inside)
    tl.store(scale_ptr + at_row, amax / LARGEST, mask=inside_row)


@triton.jit
def largest(x):
    """What the values of each row of ``x`` (R, C), 0 outside, are measured by: (R,)."""
    return tl.maximum(tl.max(tl.abs(x), axis=1), SMALLEST)


@triton.jit
def store_values(values_ptr, x, amax, at, inside):
    """Write rows ``x`` (R, C), or a part of them, at ``at`` in e4m3, measured by ``amax`` (R,)."""
    values = x * (1.0 / amax * LARGEST)[:, None]
    tl.store(values_ptr + at, values.to(values_ptr.dtype.element_ty), mask=inside)


def launch(kernel: triton.JITFunction, x: Tensor, tile: Callable[[int, int], dict[str, int]]) -> tuple[Tensor, Tensor]:
    """Values and scales of the rows of ``x`` (..., D) by ``kernel``, in tiles that ``tile(width, length)`` chooses."""
    width = x.shape[-1]
    length = x.numel() // width
    values = torch.empty(x.shape, dtype=float8.FLOAT8, device=x.device)
    scale = torch.empty((*x.shape[:-1], 1), dtype=torch.float32, device=x.device)
    config = tile(width, length)
    with torch.cuda.device_of(values):
        kernel[(triton.cdiv(length, config["ROWS"]),)](values, scale, x.contiguous(), length, width, **config)
    return values, scale
