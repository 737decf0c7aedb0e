"""LayerNorm of a tile of whole rows, for the Triton code of every op that normalises rows. Imports Triton."""

from __future__ import annotations

import triton
import triton.language as tl

TILE = 4096  # elements for each program: two rows of HuMo-1.7B, one of HuMo-17B


@triton.jit
def standardised(x, inside, width, eps):
    """Rows of ``x`` with mean 0 and variance 1, in float32; ``x`` is 0 outside."""
    mean = tl.sum(x, axis=1) / width
    centred = tl.where(inside, x - mean[:, None], 0.0)
    variance = tl.sum(centred * centred, axis=1) / width
    return centred * tl.rsqrt(variance + eps)[:, None]


def tile(width: int, length: int) -> dict[str, int]:
    """Rows of one program, the power of two that holds a row, and warps of 32 to 64 elements a thread.

    A program loads scale and shift once for all of its rows. The same on every family: the tile fits the registers of
    all of them, and nothing but memory bounds the work.
    """
    block = triton.next_power_of_2(width)
    rows = max(1, min(TILE // block, triton.next_power_of_2(length)))
    return {"ROWS": rows, "BLOCK": block, "num_warps": max(1, min(16, rows * block // 1024))}
