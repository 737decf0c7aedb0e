"""Guidance and sampler update in CUDA: addresses and the current stream to ``csrc/guided_update``."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt import _C

_DTYPES = {
    torch.float32: _C.DType.float32,
    torch.float16: _C.DType.float16,
    torch.bfloat16: _C.DType.bfloat16,
}


def run(
    velocity_BX: Tensor,
    weights_B: Tensor,
    sample_X: Tensor,
    last_sample_X: Tensor,
    newest_X: Tensor,
    older_X: Tensor,
    coefficients_35: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The op of this folder; inputs as checked by its wrapper. ``RuntimeError`` carries CUDA's message."""
    latents = [x.contiguous() for x in (sample_X, last_sample_X, newest_X, older_X)]
    velocity_BX, weights_B, coefficients_35 = (x.contiguous() for x in (velocity_BX, weights_B, coefficients_35))
    device = velocity_BX.device
    results = tuple(torch.empty(velocity_BX.shape[1:], dtype=torch.float32, device=device) for _ in range(3))
    with torch.cuda.device_of(velocity_BX):
        _C.guided_update(
            outputs=[x.data_ptr() for x in results],
            velocity=velocity_BX.data_ptr(),
            dtype=_DTYPES[velocity_BX.dtype],
            weights=weights_B.data_ptr(),
            latents=[x.data_ptr() for x in latents],
            coefficients=coefficients_35.data_ptr(),
            branches=velocity_BX.shape[0],
            count=results[0].numel(),
            stream=torch.cuda.current_stream(device).cuda_stream,
        )
    return results
