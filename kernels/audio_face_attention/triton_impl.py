"""Audio face attention in Triton: one program for a few tokens of one frame, all heads and speakers.

The first pass over the queries takes the norm, the second, from the cache, attends head by head.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2_E = 1.4426950408889634
# The interpreter multiplies the bit patterns of bfloat16 as integers: it gets the same values as float32.
WIDEN = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def matmul(a, b):
    """Product in float32; float32 inputs are not rounded to tf32."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def frame_rows(tokens, BLOCK_M: tl.constexpr):
    """This program's frame, the rows of its tile in the sequence (BLOCK_M,), and which of them the frame has."""
    tiles = tl.cdiv(tokens, BLOCK_M)
    frame = (tl.program_id(0) // tiles).to(tl.int64)
    in_frame = (tl.program_id(0) % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    return frame, frame * tokens + in_frame, in_frame < tokens


@triton.jit
def inverse_rms(q_ptr, rows, inside, stride, eps, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr):
    """1 / rms over D channels of each row, float32 (BLOCK_M,)."""
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    for start in range(0, D, BLOCK_D):
        channels = start + tl.arange(0, BLOCK_D)
        mask = inside[:, None] & (channels < D)[None, :]
        x = tl.load(q_ptr + rows[:, None] * stride + channels[None, :], mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(x * x, axis=1)
    return tl.rsqrt(total / D + eps)


@triton.jit
def normalised_head(q_ptr, weight_ptr, rows, inside, stride, scale, first, channels, K: tl.constexpr):
    """The queries of one head after the norm, rounded to their dtype as the model rounds them (BLOCK_M, BLOCK_K)."""
    mask = inside[:, None] & (channels < K)[None, :]
    x = tl.load(q_ptr + rows[:, None] * stride + first + channels[None, :], mask=mask, other=0.0)
    weight = tl.load(weight_ptr + first + channels, mask=channels < K, other=0.0).to(tl.float32)
    return (x.to(tl.float32) * scale[:, None] * weight[None, :]).to(x.dtype)


@triton.jit
def probabilities(q, k, keys, softmax_scale, S: tl.constexpr):
    """Softmax over S keys of a head, float32 (BLOCK_M, BLOCK_S)."""
    logits = matmul(q, tl.trans(k)) * softmax_scale
    logits = tl.where((keys < S)[None, :], logits, float("-inf"))
    p = tl.exp2(logits - tl.max(logits, axis=1)[:, None])
    return p / tl.sum(p, axis=1)[:, None]


@triton.jit
def _kernel(
    out_ptr, q_ptr, weight_ptr, k_ptr, v_ptr, face_ptr,
    batch, tokens, frames, eps, softmax_scale,
    q_b, q_l,
    k_p, k_b, k_t, k_h, k_s,
    v_p, v_b, v_t, v_h, v_s,
    P: tl.constexpr, H: tl.constexpr, S: tl.constexpr, K: tl.constexpr, MASKED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    frame, rows, inside = frame_rows(tokens, BLOCK_M)
    b = tl.program_id(1).to(tl.int64)
    length = tl.cast(frames, tl.int64) * tokens
    channels = tl.arange(0, BLOCK_K)
    keys = tl.arange(0, BLOCK_S)
    kv_mask = (keys < S)[:, None] & (channels < K)[None, :]

    q_ptr += b * q_b
    scale = inverse_rms(q_ptr, rows, inside, q_l, eps, H * K, BLOCK_M, BLOCK_D)
    for head in range(H):
        q = normalised_head(q_ptr, weight_ptr, rows, inside, q_l, scale, head * K, channels, K)
        total = tl.zeros((BLOCK_M, BLOCK_K), dtype=tl.float32)
        for speaker in tl.static_range(P):
            k_head = k_ptr + b * k_b + frame * k_t + speaker * k_p + head * k_h
            v_head = v_ptr + b * v_b + frame * v_t + speaker * v_p + head * v_h
            k = tl.load(k_head + keys[:, None] * k_s + channels[None, :], mask=kv_mask, other=0.0)
            v = tl.load(v_head + keys[:, None] * v_s + channels[None, :], mask=kv_mask, other=0.0)
            p = probabilities(q, k, keys, softmax_scale, S)
            heard = matmul(p.to(v.dtype), v)
            if MASKED:
                face = tl.load(face_ptr + (speaker * batch + b) * length + rows, mask=inside, other=0.0)
                heard = heard * face[:, None]
            total += heard
        mask = inside[:, None] & (channels < K)[None, :]
        out = out_ptr + (b * length + rows)[:, None] * (H * K) + head * K + channels[None, :]
        tl.store(out, total.to(out_ptr.dtype.element_ty), mask=mask)


def blocks(tokens: int, width: int, keys: int, head_dim: int, dtype: torch.dtype) -> dict[str, int]:
    """Sizes of the tiles: a tile of queries is read twice, so it has to stay small enough for the cache.

    In float32 the keys and values of the next head wait their turn: with those of three speakers or of 37 keys they do
    not fit the shared memory of a GeForce card twice.
    """
    rows = 16 if tokens <= 16 or width > 2048 else 32
    return {
        "BLOCK_M": rows,
        "BLOCK_S": max(16, triton.next_power_of_2(keys)),
        "BLOCK_K": max(16, triton.next_power_of_2(head_dim)),
        "BLOCK_D": min(256, triton.next_power_of_2(width)),
        "num_warps": 4,
        "num_stages": 1 if dtype == torch.float32 else 3,
    }


def dense_channels(x: Tensor) -> Tensor:
    """``x``, copied unless its last axis is contiguous."""
    return x if x.stride(-1) == 1 else x.contiguous()


def run(
    q_BLD: Tensor,
    norm_weight_D: Tensor,
    k_PBTHSK: Tensor,
    v_PBTHSK: Tensor,
    face_weight_PBL: Tensor | None,
    eps: float,
) -> Tensor:
    """The op of this folder; inputs as checked by its wrapper."""
    q, k, v = dense_channels(q_BLD), dense_channels(k_PBTHSK), dense_channels(v_PBTHSK)
    batch, length, width = q.shape
    speakers, _, frames, heads, keys, head_dim = k.shape
    tokens = length // frames
    out_BLD = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    face = out_BLD if face_weight_PBL is None else face_weight_PBL.contiguous()
    tiles = blocks(tokens, width, keys, head_dim, q.dtype)
    with torch.cuda.device_of(out_BLD):
        _kernel[(frames * triton.cdiv(tokens, tiles["BLOCK_M"]), batch)](
            out_BLD, q, norm_weight_D.contiguous(), k, v, face,
            batch, tokens, frames, eps, LOG2_E / head_dim**0.5,
            *q.stride()[:2], *k.stride()[:5], *v.stride()[:5],
            P=speakers, H=heads, S=keys, K=head_dim, MASKED=face_weight_PBL is not None, **tiles,
        )  # fmt: skip
    return out_BLD
