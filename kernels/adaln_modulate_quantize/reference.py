"""LayerNorm, modulation and quantisation in PyTorch: the CPU path, the fake op, what export and tests use."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels.adaln_modulate.reference import reference as modulated
from humo_rt.kernels.float8 import quantized


def reference(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """In float32; of float64 rows the values before rounding."""
    wide = torch.promote_types(x_BLD.dtype, torch.float32)
    return quantized(modulated(x_BLD, shift_B1D, scale_B1D, eps, wide))
