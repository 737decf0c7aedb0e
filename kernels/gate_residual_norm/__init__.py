"""Gated residual and the LayerNorm that follows it, in one pass.

    total[b, l] = residual[b, l] + earlier[b, l] + gate[b] * y[b, l]
    normed[b, l] = layer_norm(total[b, l]) * (1 + scale[b]) + shift[b]      modulated
    normed[b, l] = layer_norm(total[b, l]) * scale + shift                  affine

residual_BLD, y_BLD: (B, L, D) float32, float16 or bfloat16; rows may be strided, anything else is copied first.
earlier_BLD: as y, what ``residual_norm`` saw and did not keep; None if there is no such thing.
gate: (B, 1, D) or (1, 1, D), or None for a plain residual.
shift, scale: (B, 1, D) or (1, 1, D) when modulated; the bias and the weight of the norm, (D,), when affine.
total_BLD: contiguous, in the residual's dtype. normed_BLD: contiguous, in the dtype of the matrix product that reads
it. All arithmetic is float32; the norm is of the total as it was written.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.arguments import DTYPES, check_types
from humo_rt.kernels.gate_residual_norm.reference import reference


def gate_residual_norm(
    residual_BLD: Tensor,
    y_BLD: Tensor,
    gate_B1D: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    modulated: bool,
    eps: float,
    dtype: torch.dtype,
    earlier_BLD: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The new residual and its norm; shapes above. ``ValueError`` names the argument that does not fit."""
    check_inputs(residual_BLD, y_BLD, gate_B1D, shift, scale, modulated, earlier_BLD)
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype}: use float32, float16 or bfloat16")
    run = reference if registry.exporting() else _gate_residual_norm
    return run(residual_BLD, y_BLD, gate_B1D, shift, scale, modulated, eps, dtype, earlier_BLD)


def check_inputs(
    residual_BLD: Tensor,
    y_BLD: Tensor,
    gate_B1D: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    modulated: bool,
    earlier_BLD: Tensor | None = None,
) -> None:
    """``ValueError`` unless the tensors fit one another and this op."""
    shape = tuple(residual_BLD.shape)
    if len(shape) != 3 or residual_BLD.numel() == 0:
        raise ValueError(f"residual {shape} is not (B, L, D) with every axis at least one")
    for name, added in (("y", y_BLD), ("earlier", earlier_BLD)):
        if added is not None and added.shape != shape:
            raise ValueError(f"{name} {tuple(added.shape)} does not fit residual {shape}: give the same shape")
    per_branch = ((1, 1, shape[2]), (shape[0], 1, shape[2]))
    norm_shapes = per_branch if modulated else ((shape[2],),)
    vectors = {"gate": (gate_B1D, per_branch), "shift": (shift, norm_shapes), "scale": (scale, norm_shapes)}
    for name, (vector, shapes) in vectors.items():
        if vector is not None and tuple(vector.shape) not in shapes:
            expected = " or ".join(str(each) for each in dict.fromkeys(shapes))
            raise ValueError(f"{name} {tuple(vector.shape)} does not fit residual {shape}: give {expected}")
    check_types(residual=residual_BLD, y=y_BLD, earlier=earlier_BLD, gate=gate_B1D, shift=shift, scale=scale)


@torch.library.custom_op("humo_rt::gate_residual_norm", mutates_args=())
def _gate_residual_norm(
    residual_BLD: Tensor,
    y_BLD: Tensor,
    gate_B1D: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    modulated: bool,
    eps: float,
    dtype: torch.dtype,
    earlier_BLD: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    run = registry.select("gate_residual_norm", residual_BLD.device)
    return run(residual_BLD, y_BLD, gate_B1D, shift, scale, modulated, eps, dtype, earlier_BLD)


_gate_residual_norm.register_fake(reference)
