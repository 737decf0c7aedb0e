"""Audio face attention in PyTorch: the order of operations and the roundings of the model's audio attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(
    q_BLD: Tensor,
    norm_weight_D: Tensor,
    k_PBTHSK: Tensor,
    v_PBTHSK: Tensor,
    face_weight_PBL: Tensor | None,
    eps: float,
) -> Tensor:
    """(B, L, D) in the dtype of ``q_BLD``; sums over speakers in float32, or in float64 when given float64."""
    frames, heads = k_PBTHSK.shape[2:4]
    q_BTHNK = split_frames(normalised(q_BLD, norm_weight_D, eps), frames, heads)
    wide = torch.promote_types(q_BLD.dtype, torch.float32)
    total = torch.zeros(q_BLD.shape, dtype=wide, device=q_BLD.device)
    for speaker, (k, v) in enumerate(zip(k_PBTHSK, v_PBTHSK, strict=True)):
        out = F.scaled_dot_product_attention(q_BTHNK.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
        out = out.transpose(1, 2).reshape(q_BLD.shape).to(wide)
        total = total + (out if face_weight_PBL is None else face_weight_PBL[speaker, :, :, None].to(wide) * out)
    return total.to(q_BLD.dtype)


def normalised(q_BLD: Tensor, norm_weight_D: Tensor, eps: float) -> Tensor:
    """RMSNorm over the full width, in the dtype of ``q_BLD``."""
    wide = q_BLD.to(torch.promote_types(q_BLD.dtype, torch.float32))
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale * norm_weight_D.to(wide.dtype)).to(q_BLD.dtype)


def split_frames(x_BLD: Tensor, frames: int, heads: int) -> Tensor:
    """(B, T, H, N, K): the N tokens of each frame, by head."""
    return x_BLD.unflatten(1, (frames, -1)).unflatten(-1, (heads, -1)).transpose(2, 3)
