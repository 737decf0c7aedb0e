"""A tensor in e4m3 with one float32 scale, for attention in float8, less a centre if one is given.

    scale = max(|x - centre|) / 448             values = e4m3((x - centre) / scale)

x: (B, L, D) float32, float16 or bfloat16; rows may be strided, so it may be a slice of a fused product; anything else
not contiguous is copied first. centre_B1D: (B, 1, D) float32. values_BLD: (B, L, D) e4m3, contiguous. scale_1: (1,)
float32. Arithmetic is float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.arguments import check_axes, check_dtypes
from humo_rt.kernels.quantize_tensor.reference import reference


def quantize_tensor(x_BLD: Tensor, centre_B1D: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Values and scale; shapes above. ``ValueError`` names what does not fit."""
    check_axes("(B, L, D)", x=x_BLD)
    check_dtypes(x=x_BLD.dtype)
    check_centre(centre_B1D, x_BLD)
    return reference(x_BLD, centre_B1D) if registry.exporting() else _quantize_tensor(x_BLD, centre_B1D)


def check_centre(centre_B1D: Tensor | None, x_BLD: Tensor) -> None:
    """``ValueError`` unless ``centre_B1D`` is None or a vector for each sample of ``x_BLD``."""
    if centre_B1D is None:
        return
    expected = (x_BLD.shape[0], 1, x_BLD.shape[-1])
    if x_BLD.ndim != 3 or tuple(centre_B1D.shape) != expected or centre_B1D.dtype != torch.float32:
        given = f"{centre_B1D.dtype} {tuple(centre_B1D.shape)}"
        raise ValueError(f"centre is {given}: give float32 (B, 1, D) for x (B, L, D) of {tuple(x_BLD.shape)}")
    if centre_B1D.device != x_BLD.device:
        raise ValueError(f"centre is on {centre_B1D.device}, x on {x_BLD.device}: use one device")


@torch.library.custom_op("humo_rt::quantize_tensor", mutates_args=())
def _quantize_tensor(x_BLD: Tensor, centre_B1D: Tensor | None) -> tuple[Tensor, Tensor]:
    return registry.select("quantize_tensor", x_BLD.device)(x_BLD, centre_B1D)


_quantize_tensor.register_fake(reference)
