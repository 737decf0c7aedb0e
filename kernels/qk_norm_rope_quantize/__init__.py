"""``qk_norm_rope`` with its results in e4m3, by scales that are known before.

    values[b, l] = e4m3(qk_norm_rope(x)[b, l] / scale)                      for x = q and x = k

Inputs as of ``qk_norm_rope``; scale_q_1, scale_k_1: (1,) float32, as ``bound_scale`` makes them from the weights of the
norms, so that nothing saturates and no pass looks for the largest value. values: of q (B, L, H, K) e4m3, contiguous; of
k the same, with ``padding`` rows of zeros after its L.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.arguments import check_padding
from humo_rt.kernels.float8 import LARGEST
from humo_rt.kernels.qk_norm_rope import check_inputs
from humo_rt.kernels.qk_norm_rope_quantize.reference import reference


def bound_scale(weight_D: Tensor) -> Tensor:
    """(1,) float32: the scale at which no rotated row of an RMSNorm with these weights exceeds 448.

    The squares of a normalised row add up to at most D, so no pair of channels is longer than sqrt(D) * max(|weight|),
    and rotation keeps its length. A usual value lies sqrt(D) below that, which costs e4m3 nothing: down to 28672 times
    below 448 it keeps all its digits. One scale serves all heads, as cuDNN's attention takes one for each tensor.
    """
    return (weight_D.detach().float().abs().amax() * weight_D.numel() ** 0.5 / LARGEST).reshape(1)


def qk_norm_rope_quantize(
    q_BLD: Tensor,
    k_BLD: Tensor,
    weight_q_D: Tensor,
    weight_k_D: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
    num_heads: int,
    eps: float,
    scale_q_1: Tensor,
    scale_k_1: Tensor,
    padding: int = 0,
) -> tuple[Tensor, Tensor]:
    """Queries and keys ready for attention; shapes above. ``ValueError`` names the argument that does not fit."""
    check_inputs(q_BLD, k_BLD, weight_q_D, weight_k_D, cos_LP, sin_LP, num_heads)
    for name, scale in (("scale_q", scale_q_1), ("scale_k", scale_k_1)):
        if scale.shape != (1,) or scale.dtype != torch.float32 or scale.device != q_BLD.device:
            raise ValueError(f"{name} is not one float32 number on {q_BLD.device}: give what bound_scale returns")
    check_padding(padding)
    run = reference if registry.exporting() else _qk_norm_rope_quantize
    return run(q_BLD, k_BLD, weight_q_D, weight_k_D, cos_LP, sin_LP, num_heads, eps, scale_q_1, scale_k_1, padding)


@torch.library.custom_op("humo_rt::qk_norm_rope_quantize", mutates_args=())
def _qk_norm_rope_quantize(
    q_BLD: Tensor,
    k_BLD: Tensor,
    weight_q_D: Tensor,
    weight_k_D: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
    num_heads: int,
    eps: float,
    scale_q_1: Tensor,
    scale_k_1: Tensor,
    padding: int,
) -> tuple[Tensor, Tensor]:
    run = registry.select("qk_norm_rope_quantize", q_BLD.device)
    return run(q_BLD, k_BLD, weight_q_D, weight_k_D, cos_LP, sin_LP, num_heads, eps, scale_q_1, scale_k_1, padding)


_qk_norm_rope_quantize.register_fake(reference)
