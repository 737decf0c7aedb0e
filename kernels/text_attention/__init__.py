"""Text attention: the text cross-attention of a block, with keys that may stand for several equal ones.

    out[b, l, h] = sum over s of p[s] * v[b, h, s],  p = softmax(rms(q[b, l])_h . k[b, h] / sqrt(K) + bias[b])

The text of a prompt is padded with zeros up to the model's length, so all padding keys are one key: n real ones and
``log(padding)`` as the bias of the next give what all keys give. A bias of minus infinity leaves a key out, so that
branches with texts of different lengths share one call.

q_BLD: projected queries, float32, float16 or bfloat16, not yet normalised, D = H * K. Any view with contiguous channels
is read in place, others are copied. norm_weight_D: weight of the RMSNorm over the full width, in the dtype of q or
float32. k_BHSK, v_BHSK: keys (normalised) and values, in the dtype of q, S >= 1, K <= 256; views of a projection are
read in place. bias_BS: float32, at least one finite value in each row; None adds nothing.
out_BLD: contiguous, dtype of q, before the output projection. Sums are float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.text_attention.reference import reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
HALF = (torch.float16, torch.bfloat16)
MAX_HEAD_DIM = 256
CUDA_HEAD_DIM, MOST_CUDA_KEYS = 128, 128
MOST_CUDA_HEADS = 64  # of which each needs a processor of its own
# Queries of all heads and branches from which on what holds all keys of a head fills a card.
FEWEST_QUERIES = 2**18


def text_attention(
    q_BLD: Tensor,
    norm_weight_D: Tensor,
    k_BHSK: Tensor,
    v_BHSK: Tensor,
    bias_BS: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """The formula above. ``ValueError`` names the argument that does not fit."""
    _check(q_BLD, norm_weight_D, k_BHSK, v_BHSK, bias_BS)
    if registry.exporting():
        return reference(q_BLD, norm_weight_D, k_BHSK, v_BHSK, bias_BS, eps)
    return _text_attention(q_BLD, norm_weight_D, k_BHSK, v_BHSK, bias_BS, eps)


def _check(q_BLD: Tensor, norm_weight_D: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias_BS: Tensor | None) -> None:
    if q_BLD.ndim != 3 or q_BLD.numel() == 0:
        raise ValueError(f"queries {tuple(q_BLD.shape)} are not (B, L, D) with every axis at least one")
    if k_BHSK.ndim != 4 or k_BHSK.numel() == 0:
        raise ValueError(f"keys {tuple(k_BHSK.shape)} are not (B, H, S, K) with every axis at least one")
    (batch, _, width), (_, heads, keys, head_dim) = q_BLD.shape, k_BHSK.shape
    if k_BHSK.shape[0] != batch or heads * head_dim != width:
        raise ValueError(
            f"keys {tuple(k_BHSK.shape)} do not fit queries {tuple(q_BLD.shape)}: the same batch and heads * head_dim "
            "channels are needed"
        )
    if v_BHSK.shape != k_BHSK.shape or v_BHSK.dtype != k_BHSK.dtype:
        raise ValueError(
            f"values {tuple(v_BHSK.shape)} {v_BHSK.dtype} do not fit keys {tuple(k_BHSK.shape)} {k_BHSK.dtype}: give "
            "one value for each key"
        )
    if head_dim > MAX_HEAD_DIM:
        raise ValueError(f"heads of {head_dim} channels are above {MAX_HEAD_DIM}: use narrower ones")
    for name, tensor, shape in (("norm weight", norm_weight_D, (width,)), ("bias", bias_BS, (batch, keys))):
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} {tuple(tensor.shape)} does not fit keys {tuple(k_BHSK.shape)}: give {shape}")
    if q_BLD.dtype not in DTYPES or k_BHSK.dtype != q_BLD.dtype:
        raise ValueError(f"queries are {q_BLD.dtype}, keys {k_BHSK.dtype}: use float32, float16 or bfloat16 for both")
    if norm_weight_D.dtype not in (torch.float32, q_BLD.dtype):
        raise ValueError(f"norm weight is {norm_weight_D.dtype}: use float32 or {q_BLD.dtype} as the queries")
    if bias_BS is not None and bias_BS.dtype != torch.float32:
        raise ValueError(f"bias is {bias_BS.dtype}: use float32")
    for name, tensor in {"norm weight": norm_weight_D, "keys": k_BHSK, "values": v_BHSK, "bias": bias_BS}.items():
        if tensor is not None and tensor.device != q_BLD.device:
            raise ValueError(f"{name} on {tensor.device}, queries on {q_BLD.device}: use one device")


def takes(backend: str, q_BLD: Tensor, norm_weight_D: Tensor, k_BHSK: Tensor, *_: object) -> bool:
    """Whether ``backend`` is written for these arguments of the op.

    CUDA's kernel is for heads as the published models have them and for texts of up to 127 tokens, Triton's two are for
    everything.
    """
    _, heads, keys, head_dim = k_BHSK.shape
    fits = head_dim == CUDA_HEAD_DIM and heads <= MOST_CUDA_HEADS and keys <= MOST_CUDA_KEYS
    return backend != "cuda" or (q_BLD.dtype in HALF and fits)


def backend_order(q_BLD: Tensor, norm_weight_D: Tensor, k_BHSK: Tensor) -> tuple[str, ...]:
    """The backends for these arguments, the faster one first."""
    if not takes("cuda", q_BLD, norm_weight_D, k_BHSK):
        return ("triton",)
    heads = k_BHSK.shape[1]
    if q_BLD.is_cuda and heads > torch.cuda.get_device_properties(q_BLD.device).multi_processor_count:
        return ("triton",)  # a slice of a card
    many = q_BLD.shape[0] * q_BLD.shape[1] * heads >= FEWEST_QUERIES
    return ("cuda", "triton") if many else ("triton", "cuda")


@torch.library.custom_op("humo_rt::text_attention", mutates_args=())
def _text_attention(
    q_BLD: Tensor, norm_weight_D: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias_BS: Tensor | None, eps: float
) -> Tensor:
    run = registry.select("text_attention", q_BLD.device, backend_order(q_BLD, norm_weight_D, k_BHSK))
    return run(q_BLD, norm_weight_D, k_BHSK, v_BHSK, bias_BS, eps)


@_text_attention.register_fake
def _fake(q_BLD, norm_weight_D, k_BHSK, v_BHSK, bias_BS, eps):
    return torch.empty(q_BLD.shape, dtype=q_BLD.dtype, device=q_BLD.device)
