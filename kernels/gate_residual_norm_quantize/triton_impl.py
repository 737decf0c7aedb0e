"""The kernel of ``gate_residual_norm``, writing its norm in e4m3."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels.float8 import FLOAT8
from humo_rt.kernels.gate_residual_norm.triton_impl import launch


def run(
    residual_BLD: Tensor,
    y_BLD: Tensor,
    gate_B1D: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    modulated: bool,
    eps: float,
    earlier_BLD: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The op of this folder; inputs as checked by its wrapper."""
    values_BLD = torch.empty(residual_BLD.shape, dtype=FLOAT8, device=residual_BLD.device)
    row_scale_BL1 = torch.empty((*residual_BLD.shape[:-1], 1), dtype=torch.float32, device=residual_BLD.device)
    total_BLD = torch.empty(residual_BLD.shape, dtype=residual_BLD.dtype, device=residual_BLD.device)
    inputs = (residual_BLD, y_BLD, gate_B1D, shift, scale, modulated, eps, earlier_BLD)
    launch(total_BLD, values_BLD, row_scale_BL1, *inputs)
    return total_BLD, values_BLD, row_scale_BL1
