"""``gate_residual_norm`` with its norm in e4m3, quantised in the pass that makes it.

    total[b, l] = residual[b, l] + earlier[b, l] + gate[b] * y[b, l]
    n[b, l] = layer_norm(total[b, l]) * (1 + scale[b]) + shift[b]           modulated
    n[b, l] = layer_norm(total[b, l]) * scale + shift                       affine
    row_scale[b, l] = max(|n[b, l]|) / 448      values[b, l] = e4m3(n[b, l] / row_scale[b, l])

Inputs and total as of ``gate_residual_norm``. values_BLD: (B, L, D) e4m3 and row_scale_BL1: (B, L, 1) float32,
contiguous, by the rule of ``kernels/float8.py``. All arithmetic is float32; the norm is of the total as it was written,
and its rows are rounded once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.float8 import QuantizedRows
from humo_rt.kernels.gate_residual_norm import check_inputs
from humo_rt.kernels.gate_residual_norm_quantize.reference import reference


def gate_residual_norm_quantize(
    residual_BLD: Tensor,
    y_BLD: Tensor,
    gate_B1D: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    modulated: bool,
    eps: float,
    earlier_BLD: Tensor | None = None,
) -> tuple[Tensor, QuantizedRows]:
    """The new residual and its norm; shapes above. ``ValueError`` names the argument that does not fit."""
    check_inputs(residual_BLD, y_BLD, gate_B1D, shift, scale, modulated, earlier_BLD)
    run = reference if registry.exporting() else _gate_residual_norm_quantize
    total_BLD, *rows = run(residual_BLD, y_BLD, gate_B1D, shift, scale, modulated, eps, earlier_BLD)
    return total_BLD, QuantizedRows(*rows)


@torch.library.custom_op("humo_rt::gate_residual_norm_quantize", mutates_args=())
def _gate_residual_norm_quantize(
    residual_BLD: Tensor,
    y_BLD: Tensor,
    gate_B1D: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    modulated: bool,
    eps: float,
    earlier_BLD: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    run = registry.select("gate_residual_norm_quantize", residual_BLD.device)
    return run(residual_BLD, y_BLD, gate_B1D, shift, scale, modulated, eps, earlier_BLD)


_gate_residual_norm_quantize.register_fake(reference)
