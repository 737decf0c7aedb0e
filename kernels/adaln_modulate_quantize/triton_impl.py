"""The kernel of ``adaln_modulate``, writing e4m3."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels.adaln_modulate.triton_impl import launch
from humo_rt.kernels.float8 import FLOAT8


def run(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The op of this folder; inputs as checked by its wrapper."""
    values_BLD = torch.empty(x_BLD.shape, dtype=FLOAT8, device=x_BLD.device)
    row_scale_BL1 = torch.empty((*x_BLD.shape[:-1], 1), dtype=torch.float32, device=x_BLD.device)
    launch(values_BLD, row_scale_BL1, x_BLD, shift_B1D, scale_B1D, eps)
    return values_BLD, row_scale_BL1
