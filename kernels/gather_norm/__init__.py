"""LayerNorm of some rows, fetched in the pass that normalises them: where audio for the tokens of faces alone begins.

    out[b, m] = layer_norm(x[b, rows[m]]) * scale + shift

x_BLD: (B, L, D) float32, float16 or bfloat16; rows may be strided, anything else not contiguous is copied first.
rows_M: (M,) int64 in 0..L-1, which no one checks. shift_D, scale_D: bias and weight of the norm, any of these dtypes.
out_BMD: (B, M, D) contiguous, in the dtype of the matrix product that reads it. All arithmetic is float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.arguments import check_axes, check_dtypes, check_one_device
from humo_rt.kernels.gather_norm.reference import reference


def gather_norm(
    x_BLD: Tensor, rows_M: Tensor, shift_D: Tensor, scale_D: Tensor, eps: float, dtype: torch.dtype
) -> Tensor:
    """Normalised rows; shapes above. ``ValueError`` names the argument that does not fit."""
    check_axes("(B, L, D)", x=x_BLD)
    check_rows(rows_M, x_BLD)
    for name, vector in (("shift", shift_D), ("scale", scale_D)):
        if vector.shape != x_BLD.shape[2:]:
            raise ValueError(
                f"{name} {tuple(vector.shape)} does not fit x {tuple(x_BLD.shape)}: give ({x_BLD.shape[2]},)"
            )
    check_dtypes(x=x_BLD.dtype, shift=shift_D.dtype, scale=scale_D.dtype, out=dtype)
    check_one_device(x=x_BLD, rows=rows_M, shift=shift_D, scale=scale_D)
    run = reference if registry.exporting() else _gather_norm
    return run(x_BLD, rows_M, shift_D, scale_D, eps, dtype)


def check_rows(rows_M: Tensor, x_BLD: Tensor) -> None:
    """``ValueError`` unless ``rows_M`` can be the numbers of rows of ``x_BLD``."""
    if rows_M.dtype != torch.int64 or rows_M.ndim != 1 or not 1 <= rows_M.numel() <= x_BLD.shape[1]:
        raise ValueError(
            f"rows {tuple(rows_M.shape)} {rows_M.dtype} do not fit {tuple(x_BLD.shape)}: give int64 (M,), from 1 "
            f"to {x_BLD.shape[1]} of them"
        )


@torch.library.custom_op("humo_rt::gather_norm", mutates_args=())
def _gather_norm(
    x_BLD: Tensor, rows_M: Tensor, shift_D: Tensor, scale_D: Tensor, eps: float, dtype: torch.dtype
) -> Tensor:
    return registry.select("gather_norm", x_BLD.device)(x_BLD, rows_M, shift_D, scale_D, eps, dtype)


_gather_norm.register_fake(reference)
