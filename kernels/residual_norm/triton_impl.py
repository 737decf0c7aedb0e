"""The kernel of ``gate_residual_norm``, keeping no total."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels.gate_residual_norm.triton_impl import launch


def run(
    residual_BLD: Tensor, y_BLD: Tensor, shift: Tensor, scale: Tensor, modulated: bool, eps: float, dtype: torch.dtype
) -> Tensor:
    """The op of this folder; inputs as checked by its wrapper."""
    out_BLD = torch.empty(residual_BLD.shape, dtype=dtype, device=residual_BLD.device)
    launch(None, out_BLD, None, residual_BLD, y_BLD, None, shift, scale, modulated, eps)
    return out_BLD
