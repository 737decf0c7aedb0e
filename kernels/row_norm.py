"""LayerNorm of a tile of whole rows, for the Triton code of every op that normalises rows. Imports Triton."""

from __future__ import annotations

import triton
import triton.language as tl

TILE = 2048  # elements for each program: one row of HuMo-1.7B or wider, eight of nano


@triton.jit
def standardised(x, inside, width, eps):
    """Rows of ``x`` with mean 0 and variance 1, in float32; ``x`` is 0 outside."""
    mean = tl.sum(x, axis=1) / width
    centred = tl.where(inside, x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / width
    return centred * tl.rsqrt(variance + eps)[:, None]


def tile(width: int, length: int, elements: int = 16) -> dict[str, int]:
    """Rows of one program, the power of two that holds a row, and warps of so many to twice as many elements a thread.

    A tile of one row needs no change of layout between the row and the vectors that scale it. The same on every family:
    the tile fits the registers of all of them, and nothing but memory bounds the work.
    """
    block = triton.next_power_of_2(width)
    rows = max(1, min(TILE // block, triton.next_power_of_2(length)))
    return {"ROWS": rows, "BLOCK": block, "num_warps": max(1, min(8, rows * block // (32 * elements)))}
