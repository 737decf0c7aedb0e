"""RMSNorm, rotary positions and quantisation in PyTorch: the CPU path, the fake op, what export and tests use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from humo_rt.kernels.float8 import FLOAT8
from humo_rt.kernels.qk_norm_rope.reference import reference as normed_and_rotated


def reference(
    q_BLD: Tensor,
    k_BLD: Tensor,
    weight_q_D: Tensor,
    weight_k_D: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
    num_heads: int,
    eps: float,
    scale_q_1: Tensor,
    scale_k_1: Tensor,
    padding: int,
) -> tuple[Tensor, Tensor]:
    """In float32; of float64 rows the values before rounding."""
    wide = torch.promote_types(q_BLD.dtype, torch.float32)
    rows = (q_BLD.to(wide), k_BLD.to(wide))
    q, k = normed_and_rotated(*rows, weight_q_D, weight_k_D, cos_LP, sin_LP, num_heads, eps)
    kind = torch.float64 if wide == torch.float64 else FLOAT8
    padded = F.pad(k * (1 / scale_k_1), (0, 0, 0, 0, 0, padding))
    return (q * (1 / scale_q_1)).to(kind), padded.to(kind)
