"""Audio face probabilities in PyTorch, the softmax in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels.audio_face_attention.reference import normalised, split_frames


def reference(
    q_BLD: Tensor, norm_weight_D: Tensor, k_PBTHSK: Tensor, face_weight_PBL: Tensor | None, eps: float
) -> Tensor:
    """(B, L, H * P * S) in the dtype of ``q_BLD``."""
    frames, heads, _, head_dim = k_PBTHSK.shape[2:]
    wide = torch.promote_types(q_BLD.dtype, torch.float32)
    q_BTHNK = split_frames(normalised(q_BLD, norm_weight_D, eps), frames, heads)
    prob_PBTHNS = torch.softmax((q_BTHNK @ k_PBTHSK.mT).to(wide) / head_dim**0.5, dim=-1)
    prob_BLHPS = prob_PBTHNS.permute(1, 2, 4, 3, 0, 5).flatten(1, 2)
    if face_weight_PBL is not None:
        prob_BLHPS = prob_BLHPS * face_weight_PBL.permute(1, 2, 0)[:, :, None, :, None].to(wide)
    return prob_BLHPS.flatten(2).to(q_BLD.dtype)
