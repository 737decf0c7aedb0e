"""LayerNorm of a sum that is not kept: between two residuals, when the first can wait until the second is there.

    out[b, l] = layer_norm(residual[b, l] + y[b, l]) * (1 + scale[b]) + shift[b]      modulated
    out[b, l] = layer_norm(residual[b, l] + y[b, l]) * scale + shift                  affine

``gate_residual_norm`` then adds y as its ``earlier_BLD``: together they move 22 bytes of a float32 stream where two of
it move 24, for the same bits. Inputs as of ``gate_residual_norm``; out_BLD: (B, L, D) contiguous, in the dtype of the
matrix product that reads it. All arithmetic is float32; the norm is of the sum as it would have been written.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.arguments import check_dtypes
from humo_rt.kernels.gate_residual_norm import check_inputs
from humo_rt.kernels.residual_norm.reference import reference


def residual_norm(
    residual_BLD: Tensor, y_BLD: Tensor, shift: Tensor, scale: Tensor, modulated: bool, eps: float, dtype: torch.dtype
) -> Tensor:
    """The norm; shapes above. ``ValueError`` names the argument that does not fit."""
    check_inputs(residual_BLD, y_BLD, None, shift, scale, modulated)
    check_dtypes(out=dtype)
    run = reference if registry.exporting() else _residual_norm
    return run(residual_BLD, y_BLD, shift, scale, modulated, eps, dtype)


@torch.library.custom_op("humo_rt::residual_norm", mutates_args=())
def _residual_norm(
    residual_BLD: Tensor, y_BLD: Tensor, shift: Tensor, scale: Tensor, modulated: bool, eps: float, dtype: torch.dtype
) -> Tensor:
    run = registry.select("residual_norm", residual_BLD.device)
    return run(residual_BLD, y_BLD, shift, scale, modulated, eps, dtype)


_residual_norm.register_fake(reference)
