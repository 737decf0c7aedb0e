"""Rows in e4m3 with a float32 scale each, for a matrix product in float8: the rule is in ``kernels/float8.py``.

    scale[...] = max(|x[...]|) / 448
    values[...] = e4m3(x[...] / scale[...])

x: (..., D) float32, float16 or bfloat16; anything not contiguous is copied first.
values: (..., D) e4m3 and scale: (..., 1) float32, contiguous. All arithmetic is float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.arguments import check_dtypes
from humo_rt.kernels.float8 import QuantizedRows
from humo_rt.kernels.quantize_rows.reference import reference


def quantize_rows(x: Tensor) -> QuantizedRows:
    """Values and scales; shapes above. ``ValueError`` names what does not fit."""
    check_rows(x)
    return QuantizedRows(*(reference(x) if registry.exporting() else _quantize_rows(x)))


def check_rows(x: Tensor) -> None:
    """``ValueError`` unless ``x`` has rows to quantise."""
    if x.ndim < 1 or x.numel() == 0:
        raise ValueError(f"x {tuple(x.shape)} is not (..., D) with every axis at least one")
    check_dtypes(x=x.dtype)


@torch.library.custom_op("humo_rt::quantize_rows", mutates_args=())
def _quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    return registry.select("quantize_rows", x.device)(x)


_quantize_rows.register_fake(reference)
