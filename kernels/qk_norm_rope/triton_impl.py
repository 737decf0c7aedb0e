"""RMSNorm and rotary positions in Triton: one token's q and k for each program, the row of angles read once for both.

A wide token goes a group of heads at a time, read again from the cache once its norm is known: held whole, q and k of
HuMo-17B take so many registers that a processor has room for one program, and then 52 % of the copy bandwidth were
reached on an H100, where groups reach 96.

``launch`` also serves ``qk_norm_rope_quantize``: e4m3 by scales known before is a factor on the way out.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LARGEST_GROUP = 2048  # channels of q, and as many of k: all heads of HuMo-1.7B, 16 of the 40 of HuMo-17B


@triton.jit
def _loaded(ptr, at, inside):
    return tl.load(ptr + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _inverse_norm(squares, width, eps):
    return tl.rsqrt(tl.sum(squares) / width + eps)


@triton.jit
def _rotated(x, cos, sin, HEADS: tl.constexpr, PAIRS: tl.constexpr):
    even, odd = tl.split(tl.reshape(x, (HEADS, PAIRS, 2)))
    return tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (HEADS, 2 * PAIRS))


@triton.jit
def _kernel(
    out_q_ptr, out_k_ptr, scale_q_ptr, scale_k_ptr, q_ptr, k_ptr, weight_q_ptr, weight_k_ptr, cos_ptr, sin_ptr,
    heads, pairs, out_q_batch, out_k_batch, q_batch, q_row, k_batch, k_row, eps,
    QUANTIZED: tl.constexpr, GROUPS: tl.constexpr, HEADS: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    width = 2 * heads * pairs
    head = tl.arange(0, HEADS)[:, None]
    channel = tl.arange(0, 2 * PAIRS)[None, :]
    q_ptr += batch * q_batch + token * q_row
    k_ptr += batch * k_batch + token * k_row
    out_q_ptr += batch * out_q_batch
    out_k_ptr += batch * out_k_batch
    squares_q = tl.zeros((HEADS, 2 * PAIRS), tl.float32)
    squares_k = tl.zeros((HEADS, 2 * PAIRS), tl.float32)
    for group in tl.static_range(GROUPS):
        inside = (group * HEADS + head < heads) & (channel < 2 * pairs)
        at = (group * HEADS + head) * (2 * pairs) + channel
        q, k = _loaded(q_ptr, at, inside), _loaded(k_ptr, at, inside)
        squares_q += q * q
        squares_k += k * k
    scale_q, scale_k = _inverse_norm(squares_q, width, eps), _inverse_norm(squares_k, width, eps)

    pair = tl.arange(0, PAIRS)[None, :]
    cos = _loaded(cos_ptr + token * pairs, pair, pair < pairs)
    sin = _loaded(sin_ptr + token * pairs, pair, pair < pairs)
    for group in tl.static_range(GROUPS):
        if GROUPS > 1:
            inside = (group * HEADS + head < heads) & (channel < 2 * pairs)
            at = (group * HEADS + head) * (2 * pairs) + channel
            q, k = _loaded(q_ptr, at, inside), _loaded(k_ptr, at, inside)
        q = _rotated(q * scale_q * _loaded(weight_q_ptr, at, inside), cos, sin, HEADS, PAIRS)
        k = _rotated(k * scale_k * _loaded(weight_k_ptr, at, inside), cos, sin, HEADS, PAIRS)
        if QUANTIZED:
            q, k = q * (1.0 / tl.load(scale_q_ptr)), k * (1.0 / tl.load(scale_k_ptr))
        at_out = token * width + at
        tl.store(out_q_ptr + at_out, q.to(out_q_ptr.dtype.element_ty), mask=inside)
        tl.store(out_k_ptr + at_out, k.to(out_k_ptr.dtype.element_ty), mask=inside)


def tile(num_heads: int, pairs: int) -> dict[str, int]:
    """The powers of two that hold a group of heads, and warps of 16 elements a thread of q and of k: 16-byte loads."""
    pairs = triton.next_power_of_2(pairs)
    heads = min(triton.next_power_of_2(num_heads), max(1, LARGEST_GROUP // (2 * pairs)))
    groups = triton.cdiv(num_heads, heads)
    return {"GROUPS": groups, "HEADS": heads, "PAIRS": pairs, "num_warps": max(1, min(16, heads * pairs // 256))}


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
    pairs = width // num_heads // 2
    q_BLD, k_BLD = (x if x.stride(-1) == 1 else x.contiguous() for x in (q_BLD, k_BLD))
    scale_q, scale_k = scales or (cos_LP, cos_LP)  # without scales their address is never read
    with torch.cuda.device_of(out_q):
        _kernel[(length, batch)](
            out_q, out_k, scale_q, scale_k, q_BLD, k_BLD, weight_q_D.contiguous(), weight_k_D.contiguous(),
            cos_LP.contiguous(), sin_LP.contiguous(),
            num_heads, pairs, out_q.stride(0), out_k.stride(0),
            q_BLD.stride(0), q_BLD.stride(1), k_BLD.stride(0), k_BLD.stride(1), eps,
            QUANTIZED=scales is not None, **tile(num_heads, pairs),
        )  # fmt: skip
