"""Text probabilities: what text attention weighs values with, for values that hold the output projection.

    prob[b, l, h, s] = softmax over s of (rms(q[b, l])_h . k[b, h, s] / sqrt(K) + bias[b, s])

Arguments as in ``text_attention``, S <= 64. prob_BLX: (B, L, H * S), contiguous, dtype of q. With ``fold_values`` of
``audio_face_probabilities``, which takes one text for a frame, a product of the inner dimension H * S replaces that of
attention with its values and the output projection, whose inner dimension is D = H * K: for a text of few keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.text_attention import check_queries
from humo_rt.kernels.text_probabilities.reference import reference

MAX_KEYS = 64


def text_probabilities(
    q_BLD: Tensor, norm_weight_D: Tensor, k_BHSK: Tensor, bias_BS: Tensor | None = None, eps: float = 1e-6
) -> Tensor:
    """The formula above. ``ValueError`` names the argument that does not fit."""
    check_queries(q_BLD, norm_weight_D, k_BHSK, bias_BS)
    if k_BHSK.shape[2] > MAX_KEYS:
        raise ValueError(f"{k_BHSK.shape[2]} keys are above {MAX_KEYS}: use text_attention for a text that long")
    run = reference if registry.exporting() else _text_probabilities
    return run(q_BLD, norm_weight_D, k_BHSK, bias_BS, eps)


@torch.library.custom_op("humo_rt::text_probabilities", mutates_args=())
def _text_probabilities(
    q_BLD: Tensor, norm_weight_D: Tensor, k_BHSK: Tensor, bias_BS: Tensor | None, eps: float
) -> Tensor:
    run = registry.select("text_probabilities", q_BLD.device)
    return run(q_BLD, norm_weight_D, k_BHSK, bias_BS, eps)


@_text_probabilities.register_fake
def _fake(q_BLD, norm_weight_D, k_BHSK, bias_BS, eps):
    return q_BLD.new_empty((*q_BLD.shape[:2], k_BHSK.shape[1] * k_BHSK.shape[2]))
