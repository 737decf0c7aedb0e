"""The guidance sum in PyTorch: the CPU path, the fake op, what export traces and what tests compare with."""

from __future__ import annotations

import torch
from torch import Tensor


def reference(velocity_BX: Tensor, weights_B: Tensor) -> Tensor:
    """Weighted sum over the first axis in float32, or in float64 when given float64."""
    dtype = torch.promote_types(velocity_BX.dtype, torch.float32)
    weights_BX = weights_B.to(dtype).reshape(-1, *(1,) * (velocity_BX.ndim - 1))
    return (velocity_BX.to(dtype) * weights_BX).sum(dim=0)
