"""tanh-GELU and row-wise quantisation in Triton: whole rows for each program, read and written once.

The arithmetic of each element takes about as long as memory does. So the sigmoid is a square of a reciprocal root, one
instruction, where a quotient takes several.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from humo_rt.kernels import row_norm
from humo_rt.kernels.row_quantize import LARGEST, largest, launch, store_values

SLOPE = tl.constexpr(2 * math.sqrt(2 / math.pi) / math.log(2))  # for a power of two instead of e


@triton.jit
def _gelu(x):
    # 0.5 * x * (1 + tanh(u)) with u = sqrt(2 / pi) * (x + 0.044715 * x^3) is x * sigmoid(2 * u).
    root = tl.rsqrt(1.0 + tl.exp2(x * (-SLOPE - 0.044715 * SLOPE * x * x)))
    return x * root * root


@triton.jit
def _kernel(values_ptr, scale_ptr, x_ptr, length, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = rows < length
    columns = tl.arange(0, BLOCK)[None, :]
    at, inside = rows[:, None] * width + columns, there[:, None] & (columns < width)
    y = _gelu(tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32))  # 0 outside, as GELU of 0 is
    amax = largest(y)
    store_values(values_ptr, y, amax, at, inside)
    tl.store(scale_ptr + rows, amax / LARGEST, mask=there)


def tile(width: int, length: int) -> dict[str, int]:
    """Few warps with much work each: of the 16384 elements that hold a row of either model 128 for each thread."""
    return row_norm.tile(width, length, 128)


def run(x: Tensor) -> tuple[Tensor, Tensor]:
    """The op of this folder; inputs as checked by its wrapper."""
    return launch(_kernel, x, tile)
