"""The kernel of ``gate_residual_norm``, reading and writing rows that lie apart."""

from __future__ import annotations

from torch import Tensor

from humo_rt.kernels.gate_residual_norm.triton_impl import launch


def run(
    residual_BLD: Tensor,
    normed_BLD: Tensor,
    row_scale_BL1: Tensor | None,
    y_BMD: Tensor,
    rows_M: Tensor,
    shift_B1D: Tensor,
    scale_B1D: Tensor,
    eps: float,
) -> tuple[Tensor, ...]:
    """The op of this folder; inputs as checked by its wrapper. Returns what it changed."""
    norm = (None, shift_B1D, scale_B1D, True, eps)
    launch(residual_BLD, normed_BLD, row_scale_BL1, residual_BLD, y_BMD, *norm, at_L=rows_M)
    changed = (residual_BLD, normed_BLD)
    return changed if row_scale_BL1 is None else (*changed, row_scale_BL1)
