"""The kernel of ``qk_norm_rope``, writing e4m3."""

from __future__ import annotations

from torch import Tensor

from humo_rt.kernels.float8 import empty_rows
from humo_rt.kernels.qk_norm_rope.triton_impl import launch


def run(
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
    """The op of this folder; inputs as checked by its wrapper."""
    shape = (*q_BLD.shape[:2], num_heads, q_BLD.shape[2] // num_heads)
    out_q, out_k = (empty_rows(shape, rows, q_BLD.device) for rows in (0, padding))
    launch(out_q, out_k, (scale_q_1, scale_k_1), q_BLD, k_BLD, weight_q_D, weight_k_D, cos_LP, sin_LP, num_heads, eps)
    return out_q, out_k
