"""Audio face attention: the audio cross-attention of a block, confined to faces, for one or several speakers.

    out[b, l] = sum over p of weight[p, b, l] * attention(rms(q[b, l]), k[p, b, t], v[p, b, t]),  t = l // (L / T)

P speakers, B batch, L = T * tokens of a frame, D = H * K, T latent frames, H heads, S audio tokens of a frame,
K head_dim.

q_BLD: projected queries, float32, float16 or bfloat16, not yet normalised. Any view with contiguous channels is read
in place, others are copied. norm_weight_D: weight of the RMSNorm over the full width, in the dtype of q or float32.
k_PBTHSK, v_PBTHSK: keys (normalised) and values, in the dtype of q, 1 <= S <= 64, K <= 256; views of a projection are
read in place.
face_weight_PBL: float32, 0 outside of the face, 1 inside, or between; None weighs every token of every speaker 1.
out_BLD: contiguous, dtype of q, before the output projection. That projection is linear but for its bias, which a face
weighs too: the residual gets ``out @ W + bias * face_weight.sum(0)``. Sums are float32.

Reference frames are frames like the others: their keys and values come from silence, their face weight is 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.audio_face_attention.reference import reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_KEYS, MAX_HEAD_DIM, MAX_WIDTH = 64, 256, 12000
# Of csrc/audio_face_attention/scores.cuh: keys of a tile; what a block shares for each head and speaker, and besides,
# with a corner for each of eight warps.
TILE_KEYS, LOGIT_BYTES, OTHER_BYTES = 16, 32 * 16 * 4, 8 * 32 * 4 + 8 * 16 * 128


def audio_face_attention(
    q_BLD: Tensor,
    norm_weight_D: Tensor,
    k_PBTHSK: Tensor,
    v_PBTHSK: Tensor,
    face_weight_PBL: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """The formula above. ``ValueError`` names the argument that does not fit."""
    check_queries(q_BLD, norm_weight_D, k_PBTHSK, face_weight_PBL)
    if v_PBTHSK.shape != k_PBTHSK.shape or v_PBTHSK.dtype != k_PBTHSK.dtype:
        raise ValueError(
            f"values {tuple(v_PBTHSK.shape)} {v_PBTHSK.dtype} do not match keys {tuple(k_PBTHSK.shape)} "
            f"{k_PBTHSK.dtype}: give one value for each key"
        )
    if v_PBTHSK.device != q_BLD.device:
        raise ValueError(f"values on {v_PBTHSK.device}, queries on {q_BLD.device}: use one device")
    if registry.exporting():
        return reference(q_BLD, norm_weight_D, k_PBTHSK, v_PBTHSK, face_weight_PBL, eps)
    return _audio_face_attention(q_BLD, norm_weight_D, k_PBTHSK, v_PBTHSK, face_weight_PBL, eps)


def check_queries(q_BLD: Tensor, norm_weight_D: Tensor, k_PBTHSK: Tensor, face_weight_PBL: Tensor | None) -> None:
    """``ValueError`` unless queries, norm weight, keys and face weights fit one another."""
    if q_BLD.dtype not in DTYPES or k_PBTHSK.dtype != q_BLD.dtype:
        raise ValueError(f"queries are {q_BLD.dtype}, keys {k_PBTHSK.dtype}: use float32, float16 or bfloat16 for both")
    if q_BLD.ndim != 3 or k_PBTHSK.ndim != 6:
        raise ValueError(
            f"queries have {q_BLD.ndim} axes and keys {k_PBTHSK.ndim}: give (B, L, D) and (P, B, T, H, S, K)"
        )
    if q_BLD.numel() == 0 or k_PBTHSK.numel() == 0:
        raise ValueError(f"queries {tuple(q_BLD.shape)} or keys {tuple(k_PBTHSK.shape)} are empty: use at least one")
    (batch, tokens, width), (speakers, kv_batch, frames, heads, keys, head_dim) = q_BLD.shape, k_PBTHSK.shape
    if kv_batch != batch or heads * head_dim != width or tokens % frames:
        raise ValueError(
            f"keys {tuple(k_PBTHSK.shape)} do not fit queries {tuple(q_BLD.shape)}: the same batch, heads * head_dim "
            "channels and a multiple of the frames as tokens are needed"
        )
    if keys > MAX_KEYS:
        raise ValueError(f"{keys} keys in a frame are above {MAX_KEYS}: give the audio tokens of one frame")
    if head_dim > MAX_HEAD_DIM or width > MAX_WIDTH:
        raise ValueError(
            f"{heads} heads of {head_dim} channels are above {MAX_HEAD_DIM} a head or {MAX_WIDTH} in all: use fewer"
        )
    if norm_weight_D.shape != (width,) or norm_weight_D.dtype not in (torch.float32, q_BLD.dtype):
        raise ValueError(
            f"norm weight {tuple(norm_weight_D.shape)} {norm_weight_D.dtype} does not fit {width} channels of "
            f"{q_BLD.dtype}: give one number for each channel, float32 or as the queries"
        )
    devices = {norm_weight_D.device, k_PBTHSK.device}
    if face_weight_PBL is not None:
        if face_weight_PBL.dtype != torch.float32 or face_weight_PBL.shape != (speakers, batch, tokens):
            raise ValueError(
                f"face weights {tuple(face_weight_PBL.shape)} {face_weight_PBL.dtype} do not fit: give float32 "
                f"({speakers}, {batch}, {tokens}), one mask for each speaker"
            )
        devices.add(face_weight_PBL.device)
    if devices != {q_BLD.device}:
        raise ValueError(f"tensors on {', '.join(sorted(map(str, devices | {q_BLD.device})))}: use one device")


def backend_order(q_BLD: Tensor, k_PBTHSK: Tensor) -> tuple[str, ...]:
    """The backends for these inputs, the faster one first: CUDA if its kernel for the matrix unit takes them and two of
    its blocks share a processor, as they did where it was measured; its plain kernel is slower than Triton's."""
    speakers, _, _, heads, keys, head_dim = k_PBTHSK.shape
    if q_BLD.device.type == "cuda" and q_BLD.dtype == torch.bfloat16 and keys <= TILE_KEYS and head_dim in (64, 128):
        block = heads * speakers * LOGIT_BYTES + OTHER_BYTES
        if 2 * block <= torch.cuda.get_device_properties(q_BLD.device).shared_memory_per_multiprocessor:
            return ("cuda", "triton")
    return ("triton", "cuda")


def workspace_size(keys_shape: Sequence[int]) -> int:
    """Elements that the CUDA kernels want for keys (P, B, T, H, S, K) laid out for the matrix unit, S padded."""
    speakers, batch, frames, heads, _, head_dim = keys_shape
    return speakers * batch * frames * heads * TILE_KEYS * head_dim


@torch.library.custom_op("humo_rt::audio_face_attention", mutates_args=())
def _audio_face_attention(
    q_BLD: Tensor,
    norm_weight_D: Tensor,
    k_PBTHSK: Tensor,
    v_PBTHSK: Tensor,
    face_weight_PBL: Tensor | None,
    eps: float,
) -> Tensor:
    run = registry.select("audio_face_attention", q_BLD.device, backend_order(q_BLD, k_PBTHSK))
    return run(q_BLD, norm_weight_D, k_PBTHSK, v_PBTHSK, face_weight_PBL, eps)


@_audio_face_attention.register_fake
def _fake(q_BLD, norm_weight_D, k_PBTHSK, v_PBTHSK, face_weight_PBL, eps):
    return torch.empty(q_BLD.shape, dtype=q_BLD.dtype, device=q_BLD.device)
