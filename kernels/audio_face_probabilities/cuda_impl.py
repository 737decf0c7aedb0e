"""Audio face probabilities in CUDA: addresses, strides and the current stream to ``csrc/audio_face_probabilities``."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt import _C
from humo_rt.kernels.audio_face_attention.cuda_impl import DTYPES, workspace_of


def run(q_BLD: Tensor, norm_weight_D: Tensor, k_PBTHSK: Tensor, face_weight_PBL: Tensor | None, eps: float) -> Tensor:
    """The op of this folder; inputs as checked by its wrapper. ``RuntimeError`` carries CUDA's message."""
    q, k = (x if x.stride(-1) == 1 else x.contiguous() for x in (q_BLD, k_PBTHSK))
    norm_weight_D = norm_weight_D.float().contiguous()
    face = None if face_weight_PBL is None else face_weight_PBL.contiguous()
    speakers, batch, frames, heads, keys, head_dim = k.shape
    out_BLX = torch.empty(*q.shape[:2], heads * speakers * keys, dtype=q.dtype, device=q.device)
    workspace = workspace_of(k)
    with torch.cuda.device_of(out_BLX):
        _C.audio_face_probabilities(
            out=out_BLX.data_ptr(),
            q=q.data_ptr(),
            norm_weight=norm_weight_D.data_ptr(),
            k=k.data_ptr(),
            face=0 if face is None else face.data_ptr(),
            workspace=0 if workspace is None else workspace.data_ptr(),
            dtype=DTYPES[q.dtype],
            sizes=(speakers, batch, frames, q.shape[1] // frames, heads, keys, head_dim),
            q_strides=q.stride()[:2],
            k_strides=k.stride()[:5],
            eps=eps,
            stream=torch.cuda.current_stream(out_BLX.device).cuda_stream,
        )
    return out_BLX
