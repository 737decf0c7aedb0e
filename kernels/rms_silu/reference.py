"""RMSNorm and SiLU behind the remembered frames in PyTorch: the CPU path, the fake op, what tests compare with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(x_NTYXC: Tensor, gamma_C: Tensor, history_NPYXC: Tensor | None) -> Tensor:
    """In float32, or in float64 when given float64; rounded once, at the end."""
    wide = torch.promote_types(x_NTYXC.dtype, torch.float32)
    scale_C = gamma_C.to(wide) * x_NTYXC.shape[-1] ** 0.5
    y_NTYXC = F.silu(F.normalize(x_NTYXC.to(wide), dim=-1) * scale_C).to(x_NTYXC.dtype).contiguous()
    return y_NTYXC if history_NPYXC is None else torch.cat((history_NPYXC, y_NTYXC), dim=1)
