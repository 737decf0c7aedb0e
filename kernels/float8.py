"""Rows in float8 (e4m3), each with a float32 scale: the rule every quantising op follows, and its two results.

    scale = max(|row|, SMALLEST) / 448          values = round(row * 448 / max(|row|, SMALLEST))

448 is the largest e4m3 number, so nothing saturates. e4m3 has four binary digits over 15 powers of two: what is not
below 1/28672 of its row's largest value keeps a relative error of at most 1/16.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FLOAT8 = torch.float8_e4m3fn
LARGEST = 448.0
SMALLEST = 2.0**-60  # of a row's maximum: a row of zeros has a scale, and its reciprocal is finite


class QuantizedRows(NamedTuple):
    """``values * scale`` is the tensor: values (..., D) e4m3, contiguous; scale (..., 1) float32, contiguous."""

    values: Tensor
    scale: Tensor

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The tensor itself, (..., D) in ``dtype``."""
        return (self.values.float() * self.scale).to(dtype)

    def index_select(self, dim: int, index: Tensor) -> QuantizedRows:
        """As of a tensor; ``dim`` is not the last axis."""
        # Moved as bytes: not every kernel of PyTorch's knows e4m3.
        values = self.values.view(torch.uint8).index_select(dim, index).view(FLOAT8)
        return QuantizedRows(values, self.scale.index_select(dim, index))


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Values and scales of the rows of ``x``, float32; of float64 rows the values before rounding, in float64."""
    amax = x.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST)
    values = x * (LARGEST / amax)
    return values if x.dtype == torch.float64 else values.to(FLOAT8).contiguous(), amax / LARGEST


def empty_rows(shape: tuple[int, ...], padding: int, device: torch.device) -> Tensor:
    """Memory for e4m3 values (B, L, ...), and zeros in ``padding`` rows after the L."""
    values = torch.empty((shape[0], shape[1] + padding, *shape[2:]), dtype=FLOAT8, device=device)
    values.view(torch.uint8)[:, shape[1] :].zero_()
    return values


def half_step(values: Tensor) -> Tensor:
    """Half the distance between neighbouring e4m3 numbers at ``values``, float64: what rounding to one may err."""
    _, exponent = torch.frexp(values.double().abs().clamp(min=2.0**-6))  # m * 2^exponent, m in [0.5, 1)
    return torch.ldexp(torch.ones_like(values, dtype=torch.float64), exponent - 5)
