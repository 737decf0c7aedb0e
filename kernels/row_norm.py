"""LayerNorm of rows in parts, for the Triton code of every op that normalises rows. Imports Triton."""

from __future__ import annotations

import triton
import triton.language as tl

from humo_rt.kernels.row_parts import load_vector_part


@triton.jit
def layer_norm(parts, bias_ptr, weight_ptr, eps, MODULATED: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Rows ``parts`` with mean 0 and variance 1, times the vector at ``weight_ptr`` (MODULATED: and 1), plus the bias.

    ``parts`` are 0 outside, and what is returned there is anything.
    """
    total = parts[0]
    for start in tl.static_range(BLOCK, WIDTH, BLOCK):
        total += parts[start // BLOCK]
    mean = tl.sum(total, axis=1)[:, None] / WIDTH
    squares = tl.zeros_like(total)
    for start in tl.static_range(0, WIDTH, BLOCK):
        centred = parts[start // BLOCK] - mean
        if start + BLOCK > WIDTH:
            centred = tl.where(start + tl.arange(0, BLOCK)[None, :] < WIDTH, centred, 0.0)
        squares += centred * centred
    inverse = tl.rsqrt(tl.sum(squares, axis=1)[:, None] / WIDTH + eps)
    normed = ()
    for start in tl.static_range(0, WIDTH, BLOCK):
        bias = load_vector_part(bias_ptr, start, WIDTH, BLOCK)
        weight = load_vector_part(weight_ptr, start, WIDTH, BLOCK)
        if MODULATED:
            weight += 1.0
        normed += ((parts[start // BLOCK] - mean) * inverse * weight + bias,)
    return normed
