"""``adaln_modulate`` with its rows in e4m3, quantised in the pass that makes them.

    n[b, l] = layer_norm(x[b, l]) * (1 + scale[b]) + shift[b]
    row_scale[b, l] = max(|n[b, l]|) / 448      values[b, l] = e4m3(n[b, l] / row_scale[b, l])

Inputs as of ``adaln_modulate``. values_BLD: (B, L, D) e4m3 and row_scale_BL1: (B, L, 1) float32, contiguous, by the
rule of ``kernels/float8.py``. All arithmetic is float32: the rows are rounded once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.adaln_modulate import check_inputs
from humo_rt.kernels.adaln_modulate_quantize.reference import reference
from humo_rt.kernels.float8 import QuantizedRows


def adaln_modulate_quantize(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float) -> QuantizedRows:
    """Normalised and modulated rows; shapes above. ``ValueError`` names the argument that does not fit."""
    check_inputs(x_BLD, shift_B1D, scale_B1D)
    run = reference if registry.exporting() else _adaln_modulate_quantize
    return QuantizedRows(*run(x_BLD, shift_B1D, scale_B1D, eps))


@torch.library.custom_op("humo_rt::adaln_modulate_quantize", mutates_args=())
def _adaln_modulate_quantize(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    run = registry.select("adaln_modulate_quantize", x_BLD.device)
    return run(x_BLD, shift_B1D, scale_B1D, eps)


_adaln_modulate_quantize.register_fake(reference)
