"""A tensor in e4m3 with one float32 scale, for attention in float8: as it is, or less the mean of its tokens.

    scale = max(|x - centre|) / 448             values = e4m3((x - centre) / scale)

x: (B, L, D) float32, float16 or bfloat16; rows may be strided, so it may be a slice of a fused product; anything else
not contiguous is copied first. values: (B, L + padding, D) e4m3, contiguous, with zeros after the L rows. scale_1: (1,)
float32. centre_B1D: (B, 1, D) float32, the mean over L if ``centred``, else zeros. Arithmetic is float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.arguments import check_axes, check_dtypes, check_padding
from humo_rt.kernels.quantize_tensor.reference import reference


def quantize_tensor(x_BLD: Tensor, centred: bool = False, padding: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Values, scale and centre; shapes above. ``ValueError`` names what does not fit."""
    check_axes("(B, L, D)", x=x_BLD)
    check_dtypes(x=x_BLD.dtype)
    check_padding(padding)
    return (reference if registry.exporting() else _quantize_tensor)(x_BLD, centred, padding)


@torch.library.custom_op("humo_rt::quantize_tensor", mutates_args=())
def _quantize_tensor(x_BLD: Tensor, centred: bool, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    return registry.select("quantize_tensor", x_BLD.device)(x_BLD, centred, padding)


_quantize_tensor.register_fake(reference)
