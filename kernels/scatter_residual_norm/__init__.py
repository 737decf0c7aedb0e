"""Residual and modulated LayerNorm of some rows, in place: what only the tokens of faces hear is added here.

    r = rows[m]
    residual[b, r] += y[b, m]
    normed[b, r] = layer_norm(residual[b, r]) * (1 + scale[b]) + shift[b]

residual_BLD: (B, L, D) float32, float16 or bfloat16, contiguous. normed: (B, L, D) contiguous, in the dtype of the
matrix product that reads it, or its rows in e4m3 with their scales (``QuantizedRows``). Other rows stay as they are.
y_BMD: (B, M, D) any of the three dtypes; rows may be strided, anything else is copied first.
rows_M: (M,) int64 in 0..L-1, no two alike, which no one checks. shift_B1D, scale_B1D: (B, 1, D) or (1, 1, D).
All arithmetic is float32; the norm is of the residual as it is written.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.arguments import DTYPES, check_types
from humo_rt.kernels.float8 import FLOAT8, QuantizedRows
from humo_rt.kernels.gather_norm import check_rows
from humo_rt.kernels.scatter_residual_norm.reference import reference


def scatter_residual_norm(
    residual_BLD: Tensor,
    normed_BLD: Tensor | QuantizedRows,
    y_BMD: Tensor,
    rows_M: Tensor,
    shift_B1D: Tensor,
    scale_B1D: Tensor,
    eps: float,
) -> None:
    """Change residual and norm in place; shapes above. ``ValueError`` names the argument that does not fit."""
    quantized = isinstance(normed_BLD, QuantizedRows)
    values_BLD, row_scale_BL1 = normed_BLD if quantized else (normed_BLD, None)
    _check_streams(residual_BLD, values_BLD, row_scale_BL1)
    check_rows(rows_M, residual_BLD)
    batch, width = residual_BLD.shape[0], residual_BLD.shape[2]
    expected = (batch, len(rows_M), width)
    if y_BMD.shape != expected:
        raise ValueError(f"y {tuple(y_BMD.shape)} does not fit residual and rows: give {expected}")
    for name, vector in (("shift", shift_B1D), ("scale", scale_B1D)):
        if tuple(vector.shape) not in ((1, 1, width), (batch, 1, width)):
            raise ValueError(f"{name} {tuple(vector.shape)} does not fit {batch} branches: give (B or 1, 1, {width})")
    check_types(residual=residual_BLD, y=y_BMD, shift=shift_B1D, scale=scale_B1D)
    run = reference if registry.exporting() else _scatter_residual_norm
    run(residual_BLD, values_BLD, row_scale_BL1, y_BMD, rows_M, shift_B1D, scale_B1D, eps)


def _check_streams(residual_BLD: Tensor, values_BLD: Tensor, row_scale_BL1: Tensor | None) -> None:
    shape = tuple(residual_BLD.shape)
    if len(shape) != 3 or residual_BLD.numel() == 0:
        raise ValueError(f"residual {shape} is not (B, L, D) with every axis at least one")
    if values_BLD.shape != shape or values_BLD.device != residual_BLD.device:
        given = f"{tuple(values_BLD.shape)} on {values_BLD.device}"
        raise ValueError(f"normed {given} does not fit residual {shape} on {residual_BLD.device}: give the same")
    if values_BLD.dtype not in (DTYPES if row_scale_BL1 is None else (FLOAT8,)):
        raise ValueError(f"normed is {values_BLD.dtype}: use float32, float16 or bfloat16, or e4m3 with its scales")
    if row_scale_BL1 is not None and (
        row_scale_BL1.shape != (*shape[:2], 1)
        or (row_scale_BL1.dtype, row_scale_BL1.device) != (torch.float32, values_BLD.device)
    ):
        given = f"{row_scale_BL1.dtype} {tuple(row_scale_BL1.shape)} on {row_scale_BL1.device}"
        raise ValueError(f"scales of normed are {given}: give float32 {(*shape[:2], 1)} on {values_BLD.device}")
    for name, tensor in (("residual", residual_BLD), ("normed", values_BLD), ("scales of normed", row_scale_BL1)):
        if tensor is not None and not tensor.is_contiguous():
            raise ValueError(f"{name} of strides {tensor.stride()} is changed in place: give it contiguous")


@torch.library.custom_op("humo_rt::scatter_residual_norm", mutates_args=("residual_BLD", "normed_BLD", "row_scale_BL1"))
def _scatter_residual_norm(
    residual_BLD: Tensor,
    normed_BLD: Tensor,
    row_scale_BL1: Tensor | None,
    y_BMD: Tensor,
    rows_M: Tensor,
    shift_B1D: Tensor,
    scale_B1D: Tensor,
    eps: float,
) -> None:
    run = registry.select("scatter_residual_norm", residual_BLD.device)
    run(residual_BLD, normed_BLD, row_scale_BL1, y_BMD, rows_M, shift_B1D, scale_B1D, eps)


@_scatter_residual_norm.register_fake
def _fake(*arguments: object) -> None:
    """Nothing is returned, and what is changed keeps its shape."""
