"""Row-wise quantisation in PyTorch: the CPU path, the fake op, what export traces and what tests compare with."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels.float8 import quantized


def reference(x: Tensor) -> tuple[Tensor, Tensor]:
    """In float32; of a float64 tensor the values before rounding."""
    return quantized(x.to(torch.promote_types(x.dtype, torch.float32)))
