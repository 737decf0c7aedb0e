"""Guidance and sampler update in PyTorch: the CPU path, the fake op, what export traces and what tests compare with."""

from __future__ import annotations

import torch
from torch import Tensor


def reference(
    velocity_BX: Tensor,
    weights_B: Tensor,
    sample_X: Tensor,
    last_sample_X: Tensor,
    newest_X: Tensor,
    older_X: Tensor,
    coefficients_35: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """In float32, or in float64 when given float64."""
    dtype = torch.promote_types(velocity_BX.dtype, torch.float32)
    weights_BX = weights_B.to(dtype).reshape(-1, *(1,) * (velocity_BX.ndim - 1))
    guided_X = (velocity_BX.to(dtype) * weights_BX).sum(dim=0)
    terms = (guided_X, sample_X, last_sample_X, newest_X, older_X)
    rows = []
    for row_5 in coefficients_35.to(dtype).unbind(0):
        total_X = row_5[0] * guided_X
        for coefficient, term_X in zip(row_5[1:].unbind(0), terms[1:], strict=True):
            total_X = total_X + coefficient * term_X.to(dtype)
        rows.append(total_X.contiguous())
    return rows[0], rows[1], rows[2]
