"""Gate, residual and the next LayerNorm in PyTorch: the CPU path, the fake op, what export traces and tests compare."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(
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
    """In float32, or in float64 when given float64. The norm is of the sum as it is written."""
    wide = torch.promote_types(residual_BLD.dtype, torch.float32)
    added = y_BLD.to(wide)
    added = added if gate_B1D is None else gate_B1D.to(wide) * added
    stream = residual_BLD.to(wide) if earlier_BLD is None else residual_BLD.to(wide) + earlier_BLD.to(wide)
    total_BLD = (stream + added).to(residual_BLD.dtype).contiguous()
    normed = F.layer_norm(total_BLD.to(wide), total_BLD.shape[-1:], eps=eps)
    factor = 1 + scale.to(wide) if modulated else scale.to(wide)
    return total_BLD, (normed * factor + shift.to(wide)).to(dtype)
