"""tanh-GELU and row-wise quantisation in Triton: a whole row for each program, read and written once.

The arithmetic of each element takes about as long as memory does. So the sigmoid is a square of a reciprocal root, one
instruction, where a quotient takes several; and a row far from a power of two is held in two parts: 8960 as 8192 and
1024, where 16384 would be nearly half empty.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

from humo_rt.kernels import row_norm
from humo_rt.kernels.row_quantize import LARGEST, largest, launch, store_values

FULL = 0.7  # of a power of two: a row that fills less of it is divided
SLOPE = tl.constexpr(2 * math.sqrt(2 / math.pi) / math.log(2))  # for a power of two instead of e


@triton.jit
def _gelu(x):
    # 0.5 * x * (1 + tanh(u)) with u = sqrt(2 / pi) * (x + 0.044715 * x^3) is x * sigmoid(2 * u).
    root = tl.rsqrt(1.0 + tl.exp2(x * (-SLOPE - 0.044715 * SLOPE * x * x)))
    return x * root * root


@triton.jit
def _activated(x_ptr, at, inside):
    """GELU of the elements ``at``, in float32, 0 outside as GELU of 0 is."""
    return _gelu(tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32))


@triton.jit
def _kernel(values_ptr, scale_ptr, x_ptr, length, width, ROWS: tl.constexpr, BLOCK: tl.constexpr, REST: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = rows < length
    columns = tl.arange(0, BLOCK)[None, :]
    at, inside = rows[:, None] * width + columns, there[:, None] & (columns < width)
    y = _activated(x_ptr, at, inside)
    amax = largest(y)
    if REST > 0:
        others = BLOCK + tl.arange(0, REST)[None, :]
        at_others, inside_others = rows[:, None] * width + others, there[:, None] & (others < width)
        z = _activated(x_ptr, at_others, inside_others)
        amax = tl.maximum(amax, largest(z))
        store_values(values_ptr, z, amax, at_others, inside_others)
    store_values(values_ptr, y, amax, at, inside)
    tl.store(scale_ptr + rows, amax / LARGEST, mask=there)


def tile(width: int, length: int) -> dict[str, int]:
    """As ``row_norm.tile``, with the second part of a row in ``REST``, 0 where there is none."""
    whole = row_norm.tile(width, length)
    if width >= FULL * whole["BLOCK"]:
        return whole | {"REST": 0}
    block = whole["BLOCK"] // 2
    return row_norm.tile(block, length) | {"REST": triton.next_power_of_2(width - block)}


def run(x: Tensor) -> tuple[Tensor, Tensor]:
    """The op of this folder; inputs as checked by its wrapper."""
    return launch(_kernel, x, tile)
