"""Quantisation with one scale in PyTorch: the CPU path, the fake op, what export traces and what tests compare with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from humo_rt.kernels.float8 import quantized


def reference(x_BLD: Tensor, centred: bool, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """In float32; of a float64 tensor the values before rounding."""
    wide = x_BLD.to(torch.promote_types(x_BLD.dtype, torch.float32))
    centre_B1D = wide.mean(1, keepdim=True) if centred else torch.zeros_like(wide[:, :1])
    padded = F.pad(wide - centre_B1D, (0, 0, 0, padding))
    values, scale_1 = quantized(padded.reshape(-1))
    return values.view(padded.shape), scale_1, centre_B1D
