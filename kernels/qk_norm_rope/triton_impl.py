"""RMSNorm and rotary positions in Triton: one token's q and k for each program, the row of angles read once for both.

A token lies in the registers as groups of heads, a tuple of tiles, for the reasons that ``row_parts`` gives for rows.

``launch`` also serves ``qk_norm_rope_quantize``: e4m3 by scales known before is a factor on the way out.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _loaded(
    ptr, HEAD: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr
):
    """Heads HEAD to HEAD + GROUP of the HEADS of one token, WIDTH channels each: (GROUP, BLOCK), 0 outside."""
    at, inside = _place(HEAD, HEADS, WIDTH, GROUP, BLOCK)
    return tl.load(ptr + at, mask=inside, other=0.0)


@triton.jit
def _place(HEAD: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    head = HEAD + tl.arange(0, GROUP)[:, None]
    channel = tl.arange(0, BLOCK)[None, :]
    return head * WIDTH + channel, (head < HEADS) & (channel < WIDTH)


@triton.jit
def _inverse_norm(heads, width, eps):
    """Of a token in groups of heads."""
    squares = tl.zeros_like(heads[0].to(tl.float32))
    for number in tl.static_range(len(heads)):
        squares += heads[number].to(tl.float32) * heads[number].to(tl.float32)
    return tl.rsqrt(tl.sum(squares) / width + eps)


@triton.jit
def _rotated(x, cos, sin, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    even, odd = tl.split(tl.reshape(x, (GROUP, BLOCK // 2, 2)))
    return tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (GROUP, BLOCK))


@triton.jit
def _store_rotated(
    out_ptr, heads, weight_ptr, factor, cos, sin,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    turned = ()
    for first in tl.static_range(0, HEADS, GROUP):
        weight = _loaded(weight_ptr, first, HEADS, WIDTH, GROUP, BLOCK).to(tl.float32)
        turned += (_rotated(heads[first // GROUP].to(tl.float32) * factor * weight, cos, sin, GROUP, BLOCK),)
    # After all weights are loaded: a load waits for the stores before it.
    for first in tl.static_range(0, HEADS, GROUP):
        at, inside = _place(first, HEADS, WIDTH, GROUP, BLOCK)
        tl.store(out_ptr + at, turned[first // GROUP].to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _kernel(
    out_q_ptr, out_k_ptr, scale_q_ptr, scale_k_ptr, q_ptr, k_ptr, weight_q_ptr, weight_k_ptr, cos_ptr, sin_ptr,
    out_q_batch, out_k_batch, q_batch, q_row, k_batch, k_row, eps,
    QUANTIZED: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    q, k = (), ()
    for first in tl.static_range(0, HEADS, GROUP):
        q += (_loaded(q_ptr + batch * q_batch + token * q_row, first, HEADS, WIDTH, GROUP, BLOCK),)
        k += (_loaded(k_ptr + batch * k_batch + token * k_row, first, HEADS, WIDTH, GROUP, BLOCK),)
    factor_q, factor_k = _inverse_norm(q, HEADS * WIDTH, eps), _inverse_norm(k, HEADS * WIDTH, eps)
    if QUANTIZED:
        factor_q *= 1.0 / tl.load(scale_q_ptr)
        factor_k *= 1.0 / tl.load(scale_k_ptr)

    pair = tl.arange(0, BLOCK // 2)[None, :]
    at = token * (WIDTH // 2) + pair
    cos = tl.load(cos_ptr + at, mask=pair < WIDTH // 2, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + at, mask=pair < WIDTH // 2, other=0.0).to(tl.float32)
    at_out = token * (HEADS * WIDTH)
    out_q_ptr += batch * out_q_batch + at_out
    out_k_ptr += batch * out_k_batch + at_out
    _store_rotated(out_q_ptr, q, weight_q_ptr, factor_q, cos, sin, HEADS, WIDTH, GROUP, BLOCK)
    _store_rotated(out_k_ptr, k, weight_k_ptr, factor_k, cos, sin, HEADS, WIDTH, GROUP, BLOCK)


def tile(num_heads: int, width: int) -> dict[str, int]:
    """Heads of one group, the power of two that holds a head, and warps: four elements of a group for each thread if a
    head is not wider.

    Enough warps that a thread has 24 elements of q at most, and as many of k, up to 6144 channels.
    """
    block = triton.next_power_of_2(width)
    warps = min(8, max(1, triton.next_power_of_2(triton.cdiv(num_heads * block, 768))))
    group = max(1, min(triton.next_power_of_2(num_heads), 128 * warps // block))
    return {"GROUP": group, "BLOCK": block, "num_warps": warps}


def run(
    q_BLD: Tensor,
    k_BLD: Tensor,
    weight_q_D: Tensor,
    weight_k_D: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
    num_heads: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The op of this folder; inputs as checked by its wrapper."""
    shape = (*q_BLD.shape[:2], num_heads, q_BLD.shape[2] // num_heads)
    out_q, out_k = (torch.empty(shape, dtype=q_BLD.dtype, device=q_BLD.device) for _ in range(2))
    launch(out_q, out_k, None, q_BLD, k_BLD, weight_q_D, weight_k_D, cos_LP, sin_LP, num_heads, eps)
    return out_q, out_k


def launch(
    out_q: Tensor,
    out_k: Tensor,
    scales: tuple[Tensor, Tensor] | None,
    q_BLD: Tensor,
    k_BLD: Tensor,
    weight_q_D: Tensor,
    weight_k_D: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
    num_heads: int,
    eps: float,
) -> None:
    """Write the first rows of ``out_q`` and ``out_k``, divided by ``scales`` if there are any."""
    batch, length, width = q_BLD.shape
    q_BLD, k_BLD = (x if x.stride(-1) == 1 else x.contiguous() for x in (q_BLD, k_BLD))
    scale_q, scale_k = scales or (cos_LP, cos_LP)  # without scales their address is never read
    with torch.cuda.device_of(out_q):
        _kernel[(length, batch)](
            out_q, out_k, scale_q, scale_k, q_BLD, k_BLD, weight_q_D.contiguous(), weight_k_D.contiguous(),
            cos_LP.contiguous(), sin_LP.contiguous(), out_q.stride(0), out_k.stride(0),
            q_BLD.stride(0), q_BLD.stride(1), k_BLD.stride(0), k_BLD.stride(1), eps,
            QUANTIZED=scales is not None, HEADS=num_heads, WIDTH=width // num_heads,
            **tile(num_heads, width // num_heads),
        )  # fmt: skip
