"""Causal convolution in PyTorch: the CPU path, the fake op, what export traces and tests compare with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def reference(x_NTYXC: Tensor, weight_OIJKC: Tensor, bias_O: Tensor, residual_NTYXO: Tensor | None) -> Tensor:
    """PyTorch's convolution over the pixels and their border, bias, residual, then the border set to zero."""
    _, height, width = weight_OIJKC.shape[1:4]
    inner = [slice(1 - k // 2, size - 1 + k // 2) for k, size in zip((height, width), x_NTYXC.shape[2:4], strict=True)]
    x_NCTYX = x_NTYXC[:, :, inner[0], inner[1]].permute(0, 4, 1, 2, 3)
    out = F.conv3d(x_NCTYX, weight_OIJKC.permute(0, 4, 1, 2, 3), bias_O).permute(0, 2, 3, 4, 1)
    if residual_NTYXO is not None:
        out = out + residual_NTYXO[:, :, 1:-1, 1:-1]
    return F.pad(out, (0, 0, 1, 1, 1, 1)).contiguous()
