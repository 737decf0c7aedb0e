"""Quantisation of rows in parts, for the Triton code of every op that writes e4m3 rows. Imports Triton."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from humo_rt.kernels import float8
from humo_rt.kernels.row_parts import store_part

LARGEST = tl.constexpr(float8.LARGEST)
SMALLEST = tl.constexpr(float8.SMALLEST)


@triton.jit
def store_quantized(values_ptr, scale_ptr, parts, there, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Write rows ``parts`` at ``values_ptr`` in e4m3 and their scales at ``scale_ptr``, both (R, 1), by the rule of
    ``float8``. Those ``there`` are written; within a row only what is in its width counts."""
    size = tl.zeros_like(parts[0])
    for start in tl.static_range(0, WIDTH, BLOCK):
        distance = tl.abs(parts[start // BLOCK])
        if start + BLOCK > WIDTH:
            distance = tl.where(start + tl.arange(0, BLOCK)[None, :] < WIDTH, distance, 0.0)
        size = tl.maximum(size, distance)
    amax = tl.maximum(tl.max(size, axis=1), SMALLEST)[:, None]
    factor = 1.0 / amax * LARGEST
    for start in tl.static_range(0, WIDTH, BLOCK):
        store_part(values_ptr, parts[start // BLOCK] * factor, there, start, WIDTH, BLOCK)
    tl.store(scale_ptr, amax / LARGEST, mask=there)


def launch(kernel: triton.JITFunction, x: Tensor, tile: Callable[[int, int], dict[str, int]]) -> tuple[Tensor, Tensor]:
    """Values and scales of the rows of ``x`` (..., D) by ``kernel``, in tiles that ``tile(width, length)`` chooses."""
    width = x.shape[-1]
    length = x.numel() // width
    values = torch.empty(x.shape, dtype=float8.FLOAT8, device=x.device)
    scale = torch.empty((*x.shape[:-1], 1), dtype=torch.float32, device=x.device)
    config = tile(width, length)
    with torch.cuda.device_of(values):
        kernel[(triton.cdiv(length, config["ROWS"]),)](values, scale, x.contiguous(), length, WIDTH=width, **config)
    return values, scale
