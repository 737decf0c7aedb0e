"""RMSNorm and rotary positions of q and k in PyTorch: the CPU path, the fake op, what export and tests use."""

from __future__ import annotations

import torch
from torch import Tensor


def reference(
    q_BLD: Tensor,
    k_BLD: Tensor,
    weight_q_D: Tensor,
    weight_k_D: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
    num_heads: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """In float32, or in float64 when given float64; rounded once, at the end."""
    table = (cos_LP[:, None], sin_LP[:, None])
    return _one(q_BLD, weight_q_D, table, num_heads, eps), _one(k_BLD, weight_k_D, table, num_heads, eps)


def _one(x_BLD: Tensor, weight_D: Tensor, table: tuple[Tensor, Tensor], num_heads: int, eps: float) -> Tensor:
    wide = x_BLD.to(torch.promote_types(x_BLD.dtype, torch.float32))
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight_D.to(wide.dtype)
    even, odd = normed.unflatten(-1, (num_heads, -1, 2)).unbind(-1)
    cos, sin = table
    rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return rotated.flatten(-2).to(x_BLD.dtype).contiguous()
