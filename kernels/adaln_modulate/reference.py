"""LayerNorm and modulation in PyTorch: the CPU path, the fake op, what export traces and what tests compare with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """In float32, or in float64 when given float64; returned in ``dtype``."""
    wide = torch.promote_types(x_BLD.dtype, torch.float32)
    normed = F.layer_norm(x_BLD.to(wide), x_BLD.shape[-1:], eps=eps)
    return (normed * (1 + scale_B1D.to(wide)) + shift_B1D.to(wide)).to(dtype).contiguous()
