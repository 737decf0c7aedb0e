"""Gate, residual, norm and quantisation in PyTorch: the CPU path, the fake op, what export and tests use."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels.float8 import quantized
from humo_rt.kernels.gate_residual_norm.reference import reference as gated_residual_norm


def reference(
    residual_BLD: Tensor,
    y_BLD: Tensor,
    gate_B1D: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    modulated: bool,
    eps: float,
    earlier_BLD: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """In float32; of a float64 stream the values before rounding."""
    wide = torch.promote_types(residual_BLD.dtype, torch.float32)
    inputs = (residual_BLD, y_BLD, gate_B1D, shift, scale, modulated, eps)
    total_BLD, normed_BLD = gated_residual_norm(*inputs, wide, earlier_BLD)
    return total_BLD, *quantized(normed_BLD)
