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
from humo_rt.kernels.arguments import check_axes, check_dtypes, check_one_device


def adaln_modulate(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Normalised and modulated rows; shapes above. ``ValueError`` names the argument that does not fit."""
    check_inputs(x_BLD, shift_B1D, scale_B1D)
    check_dtypes(out=dtype)
    if registry.exporting():
        return reference(x_BLD, shift_B1D, scale_B1D, eps, dtype)
    return _adaln_modulate(x_BLD, shift_B1D, scale_B1D, eps, dtype)


def check_inputs(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> None:
    """``ValueError`` unless the tensors fit one another and this op."""
    check_axes("(B, L, D)", x=x_BLD)
    for name, vector in (("shift", shift_B1D), ("scale", scale_B1D)):
        if vector.ndim != 3 or vector.shape[0] not in (1, x_BLD.shape[0]) or vector.shape[1:] != (1, x_BLD.shape[2]):
            raise ValueError(f"{name} {tuple(vector.shape)} does not fit x {tuple(x_BLD.shape)}: give (B or 1, 1, D)")
    check_one_device(x=x_BLD, shift=shift_B1D, scale=scale_B1D)
    check_dtypes(x=x_BLD.dtype, shift=shift_B1D.dtype, scale=scale_B1D.dtype)


@torch.library.custom_op("humo_rt::adaln_modulate", mutates_args=())
def _adaln_modulate(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    run = registry.select("adaln_modulate", x_BLD.device)
    return run(x_BLD, shift_B1D, scale_B1D, eps, dtype)


_adaln_modulate.register_fake(reference)
