"""Audio face attention in CUDA: addresses, strides and the current stream to ``csrc/audio_face_attention``."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt import _C
from humo_rt.kernels.audio_face_attention import workspace_size

DTYPES = {
    torch.float32: _C.DType.float32,
    torch.float16: _C.DType.float16,
    torch.bfloat16: _C.DType.bfloat16,
}


def workspace_of(k_PBTHSK: Tensor) -> Tensor | None:
    """Memory for what the kernels for the matrix unit make of the keys; those of other dtypes want none."""
    if k_PBTHSK.dtype != torch.bfloat16:
        return None
    return torch.empty(workspace_size(k_PBTHSK.shape), dtype=k_PBTHSK.dtype, device=k_PBTHSK.device)


def run(
    q_BLD: Tensor,
    norm_weight_D: Tensor,
    k_PBTHSK: Tensor,
    v_PBTHSK: Tensor,
    face_weight_PBL: Tensor | None,
    eps: float,
) -> Tensor:
    """The op of this folder; inputs as checked by its wrapper. ``RuntimeError`` carries CUDA's message."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q_BLD, k_PBTHSK, v_PBTHSK))
    norm_weight_D = norm_weight_D.float().contiguous()
    face = None if face_weight_PBL is None else face_weight_PBL.contiguous()
    speakers, batch, frames, heads, keys, head_dim = k.shape
    out_BLD = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    workspace = workspace_of(k)
    with torch.cuda.device_of(out_BLD):
        _C.audio_face_attention(
            out=out_BLD.data_ptr(),
            q=q.data_ptr(),
            norm_weight=norm_weight_D.data_ptr(),
            k=k.data_ptr(),
            v=v.data_ptr(),
            face=0 if face is None else face.data_ptr(),
            workspace=0 if workspace is None else workspace.data_ptr(),
            dtype=DTYPES[q.dtype],
            sizes=(speakers, batch, frames, q.shape[1] // frames, heads, keys, head_dim),
            q_strides=q.stride()[:2],
            k_strides=k.stride()[:5],
            v_strides=v.stride()[:5],
            eps=eps,
            stream=torch.cuda.current_stream(out_BLD.device).cuda_stream,
        )
    return out_BLD
