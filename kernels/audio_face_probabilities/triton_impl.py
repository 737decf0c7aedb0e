"""Audio face probabilities in Triton: the attention's kernel without the values."""

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
    normalised_head,
    probabilities,
)


@triton.jit
def _kernel(
    out_ptr, q_ptr, weight_ptr, k_ptr, face_ptr,
    batch, tokens, frames, eps, softmax_scale,
    q_b, q_l, k_p, k_b, k_t, k_h, k_s,
    P: tl.constexpr, H: tl.constexpr, S: tl.constexpr, K: tl.constexpr, MASKED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    frame, rows, inside = frame_rows(tokens, BLOCK_M)
    b = tl.program_id(1).to(tl.int64)
    length = tl.cast(frames, tl.int64) * tokens
    channels = tl.arange(0, BLOCK_K)
    keys = tl.arange(0, BLOCK_S)
    k_mask = (keys < S)[:, None] & (channels < K)[None, :]

    q_ptr += b * q_b
    scale = inverse_rms(q_ptr, rows, inside, q_l, eps, H * K, BLOCK_M, BLOCK_D)
    for head in range(H):
        q = normalised_head(q_ptr, weight_ptr, rows, inside, q_l, scale, head * K, channels, K)
        for speaker in tl.static_range(P):
            k_head = k_ptr + b * k_b + frame * k_t + speaker * k_p + head * k_h
            k = tl.load(k_head + keys[:, None] * k_s + channels[None, :], mask=k_mask, other=0.0)
            p = probabilities(q, k, keys, softmax_scale, S)
            if MASKED:
                face = tl.load(face_ptr + (speaker * batch + b) * length + rows, mask=inside, other=0.0)
                p = p * face[:, None]
            out = out_ptr + (b * length + rows)[:, None] * (H * P * S) + (head * P + speaker) * S + keys[None, :]
            tl.store(out, p.to(out_ptr.dtype.element_ty), mask=inside[:, None] & (keys < S)[None, :])


def run(q_BLD: Tensor, norm_weight_D: Tensor, k_PBTHSK: Tensor, face_weight_PBL: Tensor | None, eps: float) -> Tensor:
    """The op of this folder; inputs as checked by its wrapper."""
    q, k = dense_channels(q_BLD), dense_channels(k_PBTHSK)
    batch, length, width = q.shape
    speakers, _, frames, heads, keys, head_dim = k.shape
    tokens = length // frames
    out_BLX = torch.empty(batch, length, heads * speakers * keys, dtype=q.dtype, device=q.device)
    face = out_BLX if face_weight_PBL is None else face_weight_PBL.contiguous()
    tiles = blocks(tokens, width, keys, head_dim, q.dtype)
    with torch.cuda.device_of(out_BLX):
        _kernel[(frames * triton.cdiv(tokens, tiles["BLOCK_M"]), batch)](
            out_BLX, q, norm_weight_D.contiguous(), k, face,
            batch, tokens, frames, eps, LOG2_E / head_dim**0.5,
            *q.stride()[:2], *k.stride()[:5],
            P=speakers, H=heads, S=keys, K=head_dim, MASKED=face_weight_PBL is not None, **tiles,
        )  # fmt: skip
    return out_BLX
