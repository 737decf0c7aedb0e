"""Guidance sum: the guided velocity from all guidance branches of one batched forward.

    out[...] = sum over b of weights[b] * velocity[b, ...]

velocity_BX: (B, ...) float32, float16 or bfloat16, B branches; anything not contiguous is copied first.
weights_B: (B,) float32 on the same device, so that a captured graph can be replayed with other weights.
out_X: (...) float32. Products and sums are float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.guidance_sum.reference import reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def guidance_sum(velocity_BX: Tensor, weights_B: Tensor) -> Tensor:
    """Weighted sum over the first axis, float32; shapes above. ``ValueError`` names the argument that does not fit."""
    if velocity_BX.dtype not in DTYPES:
        raise ValueError(f"velocity is {velocity_BX.dtype}: use float32, float16 or bfloat16")
    if weights_B.dtype != torch.float32:
        raise ValueError(f"weights are {weights_B.dtype}: use float32")
    if velocity_BX.ndim < 2 or weights_B.shape != velocity_BX.shape[:1]:
        shapes = f"weights {tuple(weights_B.shape)} do not fit velocity {tuple(velocity_BX.shape)}"
        raise ValueError(f"{shapes}: give one weight for each branch")
    if velocity_BX.numel() == 0:
        raise ValueError(f"velocity {tuple(velocity_BX.shape)} is empty: every axis must be at least one")
    if weights_B.device != velocity_BX.device:
        raise ValueError(f"weights on {weights_B.device}, velocity on {velocity_BX.device}: use one device")
    if registry.exporting():
        return reference(velocity_BX, weights_B)
    return _guidance_sum(velocity_BX, weights_B)


@torch.library.custom_op("humo_rt::guidance_sum", mutates_args=())
def _guidance_sum(velocity_BX: Tensor, weights_B: Tensor) -> Tensor:
    run = registry.select("guidance_sum", velocity_BX.device)
    return run(velocity_BX, weights_B)


_guidance_sum.register_fake(reference)
