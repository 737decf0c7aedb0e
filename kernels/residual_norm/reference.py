"""LayerNorm of a sum in PyTorch: the CPU path, the fake op, what export traces and what tests compare with."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels.gate_residual_norm.reference import reference as gate_residual_norm


def reference(
    residual_BLD: Tensor, y_BLD: Tensor, shift: Tensor, scale: Tensor, modulated: bool, eps: float, dtype: torch.dtype
) -> Tensor:
    """In float32, or in float64 when given float64; returned in ``dtype``."""
    return gate_residual_norm(residual_BLD, y_BLD, None, shift, scale, modulated, eps, dtype)[1]
