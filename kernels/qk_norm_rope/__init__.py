"""RMSNorm of queries and keys over the full width, then rotary positions, in the layout attention wants.

    n = x[b, l] * rsqrt(mean(x[b, l]^2) + eps) * weight                           for x = q and x = k
    out[b, l, h, 2p] = n[h, 2p] * cos[l, p] - n[h, 2p + 1] * sin[l, p]
    out[b, l, h, 2p + 1] = n[h, 2p] * sin[l, p] + n[h, 2p + 1] * cos[l, p]

q_BLD, k_BLD: (B, L, D) float32, float16 or bfloat16, D = H * K; rows may be strided, so both may be slices of one
fused product of (B, L, 3 * D); anything else not contiguous is copied first.
weight_q_D, weight_k_D: (D,). cos_LP, sin_LP: (L, P) float32, P = K / 2, as ``rope_table`` gives them.
out: two of (B, L, H, K), contiguous, in the dtype of q and k. All arithmetic is float32, rounded once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.arguments import DTYPES, check_axes, check_dtypes, check_one_device
from humo_rt.kernels.qk_norm_rope.reference import reference


def qk_norm_rope(
    q_BLD: Tensor,
    k_BLD: Tensor,
    weight_q_D: Tensor,
    weight_k_D: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
    num_heads: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Queries and keys ready for attention; shapes above. ``ValueError`` names the argument that does not fit."""
    check_inputs(q_BLD, k_BLD, weight_q_D, weight_k_D, cos_LP, sin_LP, num_heads)
    if registry.exporting():
        return reference(q_BLD, k_BLD, weight_q_D, weight_k_D, cos_LP, sin_LP, num_heads, eps)
    return _qk_norm_rope(q_BLD, k_BLD, weight_q_D, weight_k_D, cos_LP, sin_LP, num_heads, eps)


def check_inputs(
    q_BLD: Tensor,
    k_BLD: Tensor,
    weight_q_D: Tensor,
    weight_k_D: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
    num_heads: int,
) -> None:
    """``ValueError`` unless the tensors fit one another and this op."""
    _check_shapes(q_BLD, k_BLD, weight_q_D, weight_k_D, cos_LP, sin_LP, num_heads)
    if q_BLD.dtype not in DTYPES or k_BLD.dtype != q_BLD.dtype:
        raise ValueError(f"q is {q_BLD.dtype} and k {k_BLD.dtype}: use float32, float16 or bfloat16 for both")
    others = {"weight_q": weight_q_D, "weight_k": weight_k_D, "cos": cos_LP, "sin": sin_LP}
    check_dtypes(**{name: tensor.dtype for name, tensor in others.items()})
    check_one_device(q=q_BLD, k=k_BLD, **others)


def _check_shapes(q_BLD, k_BLD, weight_q_D, weight_k_D, cos_LP, sin_LP, num_heads) -> None:
    check_axes("(B, L, D)", q=q_BLD)
    _, length, width = q_BLD.shape
    if num_heads < 1 or width % num_heads or (width // num_heads) % 2:
        raise ValueError(f"width {width} does not split into {num_heads} heads of even width: choose another number")
    table = (length, width // num_heads // 2)
    expected = {"k": (k_BLD, q_BLD.shape), "weight_q": (weight_q_D, (width,)), "weight_k": (weight_k_D, (width,))}
    expected |= {"cos": (cos_LP, table), "sin": (sin_LP, table)}
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ValueError(
                f"{name} {tuple(tensor.shape)} does not fit q {tuple(q_BLD.shape)} of {num_heads} heads: "
                f"give {tuple(shape)}"
            )


@torch.library.custom_op("humo_rt::qk_norm_rope", mutates_args=())
def _qk_norm_rope(
    q_BLD: Tensor,
    k_BLD: Tensor,
    weight_q_D: Tensor,
    weight_k_D: Tensor,
    cos_LP: Tensor,
    sin_LP: Tensor,
    num_heads: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    run = registry.select("qk_norm_rope", q_BLD.device)
    return run(q_BLD, k_BLD, weight_q_D, weight_k_D, cos_LP, sin_LP, num_heads, eps)


_qk_norm_rope.register_fake(reference)
