"""Text attention in CUDA for Hopper: addresses, strides and the current stream to ``csrc/text_attention``."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt import _C
from humo_rt.kernels.text_attention import CUDA_HEAD_DIM, MOST_CUDA_HEADS, MOST_CUDA_KEYS, takes

CAPABILITY = 9  # its matrix products exist on no other family

_DTYPES = {torch.float16: _C.DType.float16, torch.bfloat16: _C.DType.bfloat16}
_LOAD = 16  # bytes


def run(
    q_BLD: Tensor,
    norm_weight_D: Tensor,
    k_BHSK: Tensor,
    v_BHSK: Tensor,
    bias_BS: Tensor | None,
    eps: float,
) -> Tensor:
    """The op of this folder; inputs as checked by its wrapper.

    ``ValueError`` for those that the kernel is not written for, ``RuntimeError`` carries CUDA's message.
    """
    if not takes("cuda", q_BLD, norm_weight_D, k_BHSK):
        _, heads, keys, head_dim = k_BHSK.shape
        raise ValueError(
            f"text attention in CUDA takes up to {MOST_CUDA_HEADS} heads of {CUDA_HEAD_DIM} channels, up to "
            f"{MOST_CUDA_KEYS} keys and 16-bit types, not {heads} of {head_dim}, {keys} and {q_BLD.dtype}: leave the "
            "choice of a backend to the op"
        )
    q, k, v, norm_weight_D = (_readable(x) for x in (q_BLD, k_BHSK, v_BHSK, norm_weight_D.float()))
    if 0 in q.stride():
        q = q.contiguous()  # the copy engine takes no rows that are the same memory
    bias = None if bias_BS is None else bias_BS.contiguous()
    batch, length, width = q.shape
    heads, keys = k.shape[1:3]
    out_BLD = torch.empty((batch, length, width), dtype=q.dtype, device=q.device)
    with torch.cuda.device_of(out_BLD):
        memory = torch.empty(_C.text_attention_words(heads), dtype=torch.int32, device=q.device)
        _C.text_attention(
            out=out_BLD.data_ptr(),
            memory=memory.data_ptr(),
            q=q.data_ptr(),
            norm_weight=norm_weight_D.data_ptr(),
            k=k.data_ptr(),
            v=v.data_ptr(),
            bias=0 if bias is None else bias.data_ptr(),
            dtype=_DTYPES[q.dtype],
            sizes=(batch, length, heads, keys),
            q_strides=q.stride()[:2],
            k_strides=k.stride()[:3],
            v_strides=v.stride()[:3],
            eps=eps,
            stream=torch.cuda.current_stream(out_BLD.device).cuda_stream,
        )
    return out_BLD


def _readable(x: Tensor) -> Tensor:
    """``x``, or a copy where its channels are not contiguous or no 16 bytes of them may be read at once."""
    aligned = all(step % _LOAD == 0 for step in (x.data_ptr(), *(stride * x.itemsize for stride in x.stride()[:-1])))
    return x if x.stride(-1) == 1 and aligned else x.clone(memory_format=torch.contiguous_format)
