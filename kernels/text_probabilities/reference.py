"""Text probabilities in PyTorch, the softmax in float32."""

from __future__ import annotations

from torch import Tensor

from humo_rt.kernels.text_attention.reference import probabilities


def reference(q_BLD: Tensor, norm_weight_D: Tensor, k_BHSK: Tensor, bias_BS: Tensor | None, eps: float) -> Tensor:
    """(B, L, H * S) in the dtype of ``q_BLD``."""
    p_BHLS = probabilities(q_BLD, norm_weight_D, k_BHSK, bias_BS, eps)
    return p_BHLS.transpose(1, 2).flatten(2).to(q_BLD.dtype)
