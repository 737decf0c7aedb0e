"""Audio face probabilities: what audio face attention weighs values with, for values that hold the output projection.

    prob[b, l, p, h, s] = weight[p, b, l] * softmax over s of (rms(q[b, l])_h . k[p, b, t, h, s] / sqrt(K)),
    t = l // (L / T)

Arguments as in ``audio_face_attention``. prob_BLX: (B, L, P * H * S), contiguous, dtype of q. A frame has few keys, so
``fold_values`` takes the output projection into the values once per generation, and ``add_folded`` then adds
``prob @ folded`` to the residual: an inner dimension of H * S instead of D, and no output projection.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.audio_face_attention import check_queries
from humo_rt.kernels.audio_face_probabilities.reference import reference


def audio_face_probabilities(
    q_BLD: Tensor,
    norm_weight_D: Tensor,
    k_PBTHSK: Tensor,
    face_weight_PBL: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """The formula above. ``ValueError`` names the argument that does not fit."""
    check_queries(q_BLD, norm_weight_D, k_PBTHSK, face_weight_PBL)
    if registry.exporting():
        return reference(q_BLD, norm_weight_D, k_PBTHSK, face_weight_PBL, eps)
    return _audio_face_probabilities(q_BLD, norm_weight_D, k_PBTHSK, face_weight_PBL, eps)


def fold_values(v_PBTHSK: Tensor, weight_ED: Tensor, bias_E: Tensor | None) -> Tensor:
    """Values with the output projection in them, (B, T, P * H * S, E) in the dtype of ``v_PBTHSK``.

    The probabilities of a token sum to one in each head, times its face weight: every key carries bias / heads.
    """
    heads, head_dim = v_PBTHSK.shape[3], v_PBTHSK.shape[5]
    wide = torch.promote_types(v_PBTHSK.dtype, torch.float32)
    weight_EHK = weight_ED.to(wide).unflatten(1, (heads, head_dim))
    folded = torch.einsum("pbthsk,ehk->btphse", v_PBTHSK.to(wide), weight_EHK)
    if bias_E is not None:
        folded = folded + bias_E.to(wide) / heads
    return folded.flatten(2, 4).to(v_PBTHSK.dtype)


def add_folded(residual_BLE: Tensor, prob_BLX: Tensor, folded_BTXE: Tensor) -> Tensor:
    """``residual + prob @ folded``, frame by frame; in one product when all are of one dtype."""
    batch, frames = folded_BTXE.shape[:2]
    residual = residual_BLE.reshape(batch * frames, -1, residual_BLE.shape[-1])
    prob = prob_BLX.reshape(batch * frames, -1, prob_BLX.shape[-1])
    folded = folded_BTXE.flatten(0, 1)
    if residual.dtype == prob.dtype:
        return torch.baddbmm(residual, prob, folded).view(residual_BLE.shape)
    return (residual + torch.bmm(prob, folded)).view(residual_BLE.shape)


@torch.library.custom_op("humo_rt::audio_face_probabilities", mutates_args=())
def _audio_face_probabilities(
    q_BLD: Tensor, norm_weight_D: Tensor, k_PBTHSK: Tensor, face_weight_PBL: Tensor | None, eps: float
) -> Tensor:
    run = registry.select("audio_face_probabilities", q_BLD.device)
    return run(q_BLD, norm_weight_D, k_PBTHSK, face_weight_PBL, eps)


@_audio_face_probabilities.register_fake
def _fake(q_BLD, norm_weight_D, k_PBTHSK, face_weight_PBL, eps):
    speakers, _, _, heads, keys, _ = k_PBTHSK.shape
    return torch.empty(*q_BLD.shape[:2], speakers * heads * keys, dtype=q_BLD.dtype, device=q_BLD.device)
