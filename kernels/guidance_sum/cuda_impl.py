"""The guidance sum in CUDA: addresses and the current stream to ``csrc/guidance_sum``."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt import _C

_DTYPES = {
    torch.float32: _C.DType.float32,
    torch.float16: _C.DType.float16,
    torch.bfloat16: _C.DType.bfloat16,
}


def run(velocity_BX: Tensor, weights_B: Tensor) -> Tensor:
    """The op of this folder; inputs as checked by its wrapper. ``RuntimeError`` carries CUDA's message."""
    velocity_BX, weights_B = velocity_BX.contiguous(), weights_B.contiguous()
    out_X = torch.empty(velocity_BX.shape[1:], dtype=torch.float32, device=velocity_BX.device)
    with torch.cuda.device_of(out_X):
        _C.guidance_sum(
            out=out_X.data_ptr(),
            velocity=velocity_BX.data_ptr(),
            dtype=_DTYPES[velocity_BX.dtype],
            weights=weights_B.data_ptr(),
            branches=velocity_BX.shape[0],
            count=out_X.numel(),
            stream=torch.cuda.current_stream(out_X.device).cuda_stream,
        )
    return out_X
