"""A tensor in e4m3 with one float32 scale, for attention in float8.

    scale = max(|x|) / 448                      values = e4m3(x / scale)

x: (B, L, D) float32, float16 or bfloat16; rows may be strided, so it may be a slice of a fused product; anything else
not contiguous is copied first. values_BLD: (B, L, D) e4m3, contiguous. scale_1: (1,) float32. Arithmetic is float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.quantize_tensor.reference import reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def quantize_tensor(x_BLD: Tensor) -> tuple[Tensor, Tensor]:
    """Values and scale; shapes above. ``ValueError`` names what does not fit."""
    if x_BLD.ndim != 3 or x_BLD.numel() == 0:
        raise ValueError(f"x {tuple(x_BLD.shape)} is not (B, L, D) with every axis at least one")
    if x_BLD.dtype not in DTYPES:
        raise ValueError(f"x is {x_BLD.dtype}: use float32, float16 or bfloat16")
    return reference(x_BLD) if registry.exporting() else _quantize_tensor(x_BLD)


@torch.library.custom_op("humo_rt::quantize_tensor", mutates_args=())
def _quantize_tensor(x_BLD: Tensor) -> tuple[Tensor, Tensor]:
    return registry.select("quantize_tensor", x_BLD.device)(x_BLD)


_quantize_tensor.register_fake(reference)
