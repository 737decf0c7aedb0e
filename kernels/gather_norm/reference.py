"""LayerNorm of some rows in PyTorch: the CPU path, the fake op, what export traces and what tests compare with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(
    x_BLD: Tensor, rows_M: Tensor, shift_D: Tensor, scale_D: Tensor, eps: float, dtype: torch.dtype
) -> Tensor:
    """In float32, or in float64 when given float64; returned in ``dtype``."""
    wide = torch.promote_types(x_BLD.dtype, torch.float32)
    rows_BMD = x_BLD.index_select(1, rows_M).to(wide)
    return F.layer_norm(rows_BMD, x_BLD.shape[2:], scale_D.to(wide), shift_D.to(wide), eps).to(dtype).contiguous()
