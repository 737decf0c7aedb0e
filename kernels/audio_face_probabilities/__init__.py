"""Audio face probabilities: what audio face attention weighs values with, for values that hold the output projection.

    prob[b, l, h, p, s] = weight[p, b, l] * softmax over s of (rms(q[b, l])_h . k[p, b, t, h, s] / sqrt(K)),
    t = l // (L / T)

Arguments as in ``audio_face_attention``. prob_BLX: (B, L, H * P * S), contiguous, dtype of q.

A frame has few keys and many tokens. So ``fold_values`` takes the output projection into the values, H * P * S rows a
frame, and ``weigh_values`` is a product of that inner dimension instead of D: together they replace attention's product
with the values and the output projection. Face weights then scale the bias of that projection, too, as they should.
Both are products of PyTorch's with float32 sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.audio_face_attention import backend_order, check_queries
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
    """Values with the output projection in them, (B * T, H * P * S, E), computed in the dtype of ``v_PBTHSK``.

    One head carries the bias whole: its probabilities sum to the face weights, as those of every head do. Shares of the
    bias, all rounded to one side, would add up. The result is a view in which the frames of a key lie side by side: so
    one product for each head writes what ``weigh_values`` reads in place. Only the values, small as they are, are
    copied into that order first.
    """
    _, batch, frames, heads, _, head_dim = v_PBTHSK.shape
    v_HRK = v_PBTHSK.permute(3, 0, 4, 1, 2, 5).flatten(1, 4)  # rows by speaker, key, and then frame
    weight_HKE = weight_ED.unflatten(1, (heads, head_dim)).permute(1, 2, 0)
    folded_HRE = torch.bmm(v_HRK, weight_HKE)
    if bias_E is not None:
        folded_HRE[0] += bias_E
    return folded_HRE.view(-1, batch * frames, len(weight_ED)).transpose(0, 1)


def weigh_values(prob_BLX: Tensor, folded_NXE: Tensor) -> Tensor:
    """``prob @ folded``, frame by frame: (B, L, E), for ``fold_values``' N = B * T frames in all."""
    prob_NMX = prob_BLX.view(len(folded_NXE), -1, prob_BLX.shape[-1])
    return torch.bmm(prob_NMX, folded_NXE).view(*prob_BLX.shape[:2], -1)


@torch.library.custom_op("humo_rt::audio_face_probabilities", mutates_args=())
def _audio_face_probabilities(
    q_BLD: Tensor, norm_weight_D: Tensor, k_PBTHSK: Tensor, face_weight_PBL: Tensor | None, eps: float
) -> Tensor:
    run = registry.select("audio_face_probabilities", q_BLD.device, backend_order(q_BLD, k_PBTHSK))
    return run(q_BLD, norm_weight_D, k_PBTHSK, face_weight_PBL, eps)


@_audio_face_probabilities.register_fake
def _fake(q_BLD, norm_weight_D, k_PBTHSK, face_weight_PBL, eps):
    speakers, _, _, heads, keys, _ = k_PBTHSK.shape
    return torch.empty(*q_BLD.shape[:2], heads * speakers * keys, dtype=q_BLD.dtype, device=q_BLD.device)
