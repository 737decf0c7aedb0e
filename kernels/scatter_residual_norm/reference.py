"""Residual and norm of some rows, in place, in PyTorch: the CPU path, what export traces and tests compare with."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels.float8 import quantized
from humo_rt.kernels.gate_residual_norm.reference import reference as residual_norm


def reference(
    residual_BLD: Tensor,
    normed_BLD: Tensor,
    row_scale_BL1: Tensor | None,
    y_BMD: Tensor,
    rows_M: Tensor,
    shift_B1D: Tensor,
    scale_B1D: Tensor,
    eps: float,
) -> tuple[Tensor, ...]:
    """In float32, or in float64 when given float64; returns what it changed. The norm is of the sum as written."""
    wide = torch.promote_types(residual_BLD.dtype, torch.float32)
    dtype = normed_BLD.dtype if row_scale_BL1 is None else wide
    inside_BMD = residual_BLD.index_select(1, rows_M)
    inputs = (inside_BMD, y_BMD, None, shift_B1D, scale_B1D, True, eps, dtype)
    inside_BMD, rows_BMD = residual_norm(*inputs)
    residual_BLD.index_copy_(1, rows_M, inside_BMD)
    if row_scale_BL1 is None:
        normed_BLD.index_copy_(1, rows_M, rows_BMD)
        return residual_BLD, normed_BLD
    values_BMD, scale_BM1 = quantized(rows_BMD)
    if values_BMD.dtype == torch.float64:
        normed_BLD.index_copy_(1, rows_M, values_BMD)
    else:  # moved as bytes: not every kernel of PyTorch's knows e4m3
        normed_BLD.view(torch.uint8).index_copy_(1, rows_M, values_BMD.view(torch.uint8))
    row_scale_BL1.index_copy_(1, rows_M, scale_BM1)
    return residual_BLD, normed_BLD, row_scale_BL1
