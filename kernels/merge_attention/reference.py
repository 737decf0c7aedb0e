"""Merging two results of attention in PyTorch: the CPU path, the fake op, what export traces and tests compare with."""

from __future__ import annotations

import torch
from torch import Tensor


def reference(first_BLHK: Tensor, first_lse_BHL: Tensor, second_BLHK: Tensor, second_lse_BHL: Tensor) -> Tensor:
    """In float32, or in float64 when given float64; returned in the dtype of what is merged."""
    wide = torch.promote_types(second_BLHK.dtype, torch.float32)
    share_BLH1 = torch.sigmoid(second_lse_BHL.to(wide) - first_lse_BHL.to(wide)).transpose(1, 2)[..., None]
    merged_BLHK = torch.lerp(first_BLHK.to(wide), second_BLHK.to(wide), share_BLH1)
    return merged_BLHK.to(second_BLHK.dtype).contiguous()
