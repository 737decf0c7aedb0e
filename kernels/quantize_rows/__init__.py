"""Rows in e4m3 with a float32 scale each, for a matrix product in float8: the rule is in ``kernels/float8.py``.

    scale[...] = max(|x[...]|) / 448
    values[...] = e4m3(x[...] / scale[...])

x: (..., D) float32, float16 or bfloat16; anything not contiguous is copied first. What attention in float8 returns,
x = centre + factor * given, is made and rounded again in one pass: given_BLD: (B, L, D) e4m3; factor_1: (1,) float32;
centre_B1D: (B, 1, D) float32.
values: (..., D) e4m3 and scale: (..., 1) float32, contiguous. All arithmetic is float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.arguments import check_dtypes
from humo_rt.kernels.float8 import FLOAT8, QuantizedRows
from humo_rt.kernels.quantize_rows.reference import reference


def quantize_rows(x: Tensor) -> QuantizedRows:
    """Values and scales; shapes above. ``ValueError`` names what does not fit."""
    check_rows(x)
    return QuantizedRows(*(reference(x) if registry.exporting() else _quantize_rows(x)))


def requantize_rows(given_BLD: Tensor, factor_1: Tensor, centre_B1D: Tensor) -> QuantizedRows:
    """Rows of ``centre + factor * given``; shapes above. ``ValueError`` names what does not fit."""
    if given_BLD.dtype != FLOAT8 or given_BLD.ndim != 3:
        raise ValueError(f"given is {given_BLD.dtype} {tuple(given_BLD.shape)}: give e4m3 (B, L, D)")
    if factor_1.shape != (1,) or factor_1.dtype != torch.float32 or factor_1.device != given_BLD.device:
        raise ValueError(f"factor is not one float32 number on {given_BLD.device}: give the scale of what is given")
    expected = (given_BLD.shape[0], 1, given_BLD.shape[-1])
    if tuple(centre_B1D.shape) != expected or centre_B1D.dtype != torch.float32:
        given = f"{centre_B1D.dtype} {tuple(centre_B1D.shape)}"
        raise ValueError(f"centre is {given}: give float32 (B, 1, D) for what is given, {tuple(given_BLD.shape)}")
    if centre_B1D.device != given_BLD.device:
        raise ValueError(f"centre is on {centre_B1D.device}, given on {given_BLD.device}: use one device")
    run = reference if registry.exporting() else _quantize_rows
    return QuantizedRows(*run(given_BLD, factor_1, centre_B1D))


def check_rows(x: Tensor) -> None:
    """``ValueError`` unless ``x`` has rows to quantise."""
    if x.ndim < 1 or x.numel() == 0:
        raise ValueError(f"x {tuple(x.shape)} is not (..., D) with every axis at least one")
    check_dtypes(x=x.dtype)


@torch.library.custom_op("humo_rt::quantize_rows", mutates_args=())
def _quantize_rows(
    x: Tensor, factor_1: Tensor | None = None, centre_B1D: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return registry.select("quantize_rows", x.device)(x, factor_1, centre_B1D)


_quantize_rows.register_fake(reference)
