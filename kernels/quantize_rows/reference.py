"""Row-wise quantisation in PyTorch: the CPU path, the fake op, what export traces and what tests compare with."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels.float8 import FLOAT8, quantized


def reference(x: Tensor, factor_1: Tensor | None = None, centre_B1D: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """In float32; of a float64 tensor the values before rounding."""
    wide = x.float() if x.dtype == FLOAT8 else x.to(torch.promote_types(x.dtype, torch.float32))
    return quantized(wide if factor_1 is None or centre_B1D is None else wide * factor_1 + centre_B1D)
