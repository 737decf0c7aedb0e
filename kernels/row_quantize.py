"""Quantisation of a tile of whole rows, for the Triton code of every op that writes e4m3 rows. Imports Triton."""

from __future__ import annotations

import triton
import triton.language as tl

from humo_rt.kernels import float8

LARGEST = tl.constexpr(float8.LARGEST)
SMALLEST = tl.constexpr(float8.SMALLEST)


@triton.jit
def store_quantized(values_ptr, scale_ptr, x, at, at_row, inside, inside_row):
    """Write rows ``x`` (R, C) at ``at`` in e4m3 and their scales at ``at_row`` (R,), by the rule of ``float8``."""
    amax = tl.maximum(tl.max(tl.where(inside, tl.abs(x), 0.0), axis=1), SMALLEST)
    values = x * (1.0 / amax * LARGEST)[:, None]
    tl.store(values_ptr + at, values.to(values_ptr.dtype.element_ty), mask=inside)
    tl.store(scale_ptr + at_row, amax / LARGEST, mask=inside_row)
