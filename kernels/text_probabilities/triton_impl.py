"""Text probabilities in Triton: one program for a few tokens and all heads.

The first pass over the queries takes the norm, the second, from the cache, the probabilities head by head.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from humo_rt.kernels.audio_face_attention.triton_impl import (
    LOG2_E,
    blocks,
    dense_channels,
    frame_rows,
    inverse_rms,
    matmul,
    normalised_head,
)


@triton.jit
def _kernel(
    out_ptr, q_ptr, weight_ptr, k_ptr, bias_ptr,
    length, keys, eps, softmax_scale, log2_e,
    q_b, q_l, k_b, k_h, k_s,
    H: tl.constexpr, K: tl.constexpr, BIASED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    _, rows, inside = frame_rows(length, BLOCK_M)
    b = tl.program_id(1).to(tl.int64)
    channels, at = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_S)
    there = (at < keys)[:, None] & (channels < K)[None, :]
    if BIASED:
        bias = tl.load(bias_ptr + b * keys + at, mask=at < keys, other=float("-inf")) * log2_e
    else:
        bias = tl.where(at < keys, 0.0, float("-inf"))

    q_ptr += b * q_b
    scale = inverse_rms(q_ptr, rows, inside, q_l, eps, H * K, BLOCK_M, BLOCK_D)
    for head in range(H):
        q = normalised_head(q_ptr, weight_ptr, rows, inside, q_l, scale, head * K, channels, K)
        k = tl.load(k_ptr + b * k_b + head * k_h + at[:, None] * k_s + channels[None, :], mask=there, other=0.0)
        logits = matmul(q, tl.trans(k)) * softmax_scale + bias[None, :]
        p = tl.exp2(logits - tl.max(logits, axis=1)[:, None])
        p = p / tl.sum(p, axis=1)[:, None]
        out = out_ptr + ((b * length + rows)[:, None] * H + head) * keys + at[None, :]
        tl.store(out, p.to(out_ptr.dtype.element_ty), mask=inside[:, None] & (at < keys)[None, :])


def run(q_BLD: Tensor, norm_weight_D: Tensor, k_BHSK: Tensor, bias_BS: Tensor | None, eps: float) -> Tensor:
    """The op of this folder; inputs as checked by its wrapper."""
    q, k = dense_channels(q_BLD), dense_channels(k_BHSK)
    batch, length, width = q.shape
    heads, keys, head_dim = k.shape[1:]
    out_BLX = torch.empty((batch, length, heads * keys), dtype=q.dtype, device=q.device)
    bias = out_BLX if bias_BS is None else bias_BS.contiguous()  # without a bias its address is never read
    tiles = blocks(length, width, keys, head_dim, q.dtype)
    with torch.cuda.device_of(out_BLX):
        _kernel[(triton.cdiv(length, tiles["BLOCK_M"]), batch)](
            out_BLX, q, norm_weight_D.contiguous(), k, bias,
            length, keys, eps, LOG2_E / head_dim**0.5, LOG2_E,
            *q.stride()[:2], *k.stride()[:3],
            H=heads, K=head_dim, BIASED=bias_BS is not None, **tiles,
        )  # fmt: skip
    return out_BLX
