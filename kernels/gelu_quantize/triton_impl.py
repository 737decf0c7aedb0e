"""tanh-GELU and row-wise quantisation in Triton: whole rows for each program, read and written once.

The arithmetic of each element takes about as long as memory does. So the sigmoid is a square of a reciprocal root, one
instruction, where a quotient takes several.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from humo_rt.kernels.row_parts import load_part, tile
from humo_rt.kernels.row_quantize import launch, store_quantized

SLOPE = tl.constexpr(2 * math.sqrt(2 / math.pi) / math.log(2))  # for a power of two instead of e


@triton.jit
def _gelu(x):
    # 0.5 * x * (1 + tanh(u)) with u = sqrt(2 / pi) * (x + 0.044715 * x^3) is x * sigmoid(2 * u).
    root = tl.rsqrt(1.0 + tl.exp2(x * (-SLOPE - 0.044715 * SLOPE * x * x)))
    return x * root * root


@triton.jit
def _kernel(values_ptr, scale_ptr, x_ptr, length, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    there = rows < length
    y = ()
    for start in tl.static_range(0, WIDTH, BLOCK):
        y += (_gelu(load_part(x_ptr + rows * WIDTH, there, start, WIDTH, BLOCK)),)
    store_quantized(values_ptr + rows * WIDTH, scale_ptr + rows, y, there, WIDTH, BLOCK)


def run(x: Tensor) -> tuple[Tensor, Tensor]:
    """The op of this folder; inputs as checked by its wrapper."""
    return launch(_kernel, x, tile)
