"""LayerNorm without weights, then the modulation of a DiT block, in one pass.

    out[b, l] = layer_norm(x[b, l]) * (1 + scale[b]) + shift[b]

x_BLD: (B, L, D) float32, float16 or bfloat16; rows may be strided, anything else not contiguous is copied first.
shift_B1D, scale_B1D: (B, 1, D) or (1, 1, D), any of these dtypes, the vectors of each guidance branch.
out_BLD: (B, L, D) contiguous, in the dtype of the matrix product that reads it. All arithmetic is float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.adaln_modulate.reference import reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def adaln_modulate(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Normalised and modulated rows; shapes above. ``ValueError`` names the argument that does not fit."""
    check_inputs(x_BLD, shift_B1D, scale_B1D)
    if dtype not in DTYPES:
        raise ValueError(f"out is {dtype}: use float32, float16 or bfloat16")
    if registry.exporting():
        return reference(x_BLD, shift_B1D, scale_B1D, eps, dtype)
    return _adaln_modulate(x_BLD, shift_B1D, scale_B1D, eps, dtype)


def check_inputs(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> None:
    """``ValueError`` unless the tensors fit one another and this op."""
    if x_BLD.ndim != 3 or x_BLD.numel() == 0:
        raise ValueError(f"x {tuple(x_BLD.shape)} is not (B, L, D) with every axis at least one")
    for name, vector in (("shift", shift_B1D), ("scale", scale_B1D)):
        if vector.ndim != 3 or vector.shape[0] not in (1, x_BLD.shape[0]) or vector.shape[1:] != (1, x_BLD.shape[2]):
            raise ValueError(f"{name} {tuple(vector.shape)} does not fit x {tuple(x_BLD.shape)}: give (B or 1, 1, D)")
        if vector.device != x_BLD.device:
            raise ValueError(f"{name} on {vector.device}, x on {x_BLD.device}: use one device")
    for name, tensor in (("x", x_BLD), ("shift", shift_B1D), ("scale", scale_B1D)):
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{name} is {tensor.dtype}: use float32, float16 or bfloat16")


@torch.library.custom_op("humo_rt::adaln_modulate", mutates_args=())
def _adaln_modulate(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    run = registry.select("adaln_modulate", x_BLD.device)
    return run(x_BLD, shift_B1D, scale_B1D, eps, dtype)


_adaln_modulate.register_fake(reference)
