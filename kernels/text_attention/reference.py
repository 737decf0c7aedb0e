"""Text attention in PyTorch: the order of operations and the roundings of the model's text attention."""

from __future__ import annotations

import torch
from torch import Tensor


def reference(
    q_BLD: Tensor,
    norm_weight_D: Tensor,
    k_BHSK: Tensor,
    v_BHSK: Tensor,
    bias_BS: Tensor | None,
    eps: float,
) -> Tensor:
    """(B, L, D) in the dtype of ``q_BLD``; sums in float32, or in float64 when given float64."""
    wide = q_BLD.to(torch.promote_types(q_BLD.dtype, torch.float32))
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    normed = (wide * scale * norm_weight_D.to(wide.dtype)).to(q_BLD.dtype)
    q_BHLK = normed.unflatten(-1, (k_BHSK.shape[1], -1)).transpose(1, 2).to(wide.dtype)
    logits_BHLS = q_BHLK @ k_BHSK.to(wide.dtype).mT / k_BHSK.shape[-1] ** 0.5
    if bias_BS is not None:  # never rounded to a narrow dtype: the logarithm of a count would be off by over a percent
        logits_BHLS = logits_BHLS + bias_BS.to(wide.dtype)[:, None, None]
    p_BHLS = logits_BHLS.softmax(-1).to(q_BLD.dtype).to(wide.dtype)
    out_BHLK = p_BHLS @ v_BHSK.to(wide.dtype)
    return out_BHLK.transpose(1, 2).reshape(q_BLD.shape).to(q_BLD.dtype)
