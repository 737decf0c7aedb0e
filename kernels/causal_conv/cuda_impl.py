"""Causal convolution in CUDA for Hopper: addresses, sizes and the current stream to ``csrc/causal_conv``."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt import _C

CAPABILITY = 9  # its matrix products and copies exist on no other family

_LOAD = 16  # bytes
_DTYPES = {torch.float16: _C.DType.float16, torch.bfloat16: _C.DType.bfloat16}


def run(
    x_NTYXC: Tensor,
    weight_OIJKC: Tensor,
    bias_O: Tensor,
    residual_NTYXO: Tensor | None,
    *,
    shared_columns: bool = True,
) -> Tensor:
    """The op of this folder; inputs as checked by its wrapper. ``RuntimeError`` carries CUDA's message."""
    batch, frames, rows, columns, inputs = x_NTYXC.shape
    outputs, taps, height, width, _ = weight_OIJKC.shape
    x_NTYXC, weight_OIJKC, bias_O = map(_aligned, (x_NTYXC, weight_OIJKC, bias_O))
    residual_NTYXO = None if residual_NTYXO is None else _aligned(residual_NTYXO)
    frames -= taps - 1
    out = torch.empty((batch, frames, rows, columns, outputs), dtype=x_NTYXC.dtype, device=x_NTYXC.device)
    with torch.cuda.device_of(out):
        stream = torch.cuda.current_stream(out.device).cuda_stream
        for n in range(batch):
            _C.causal_conv(
                x=x_NTYXC[n].data_ptr(),
                weight=weight_OIJKC.data_ptr(),
                bias=bias_O.data_ptr(),
                residual=0 if residual_NTYXO is None else residual_NTYXO[n].data_ptr(),
                out=out[n].data_ptr(),
                dtype=_DTYPES[x_NTYXC.dtype],
                frames=frames,
                rows=rows,
                columns=columns,
                inputs=inputs,
                outputs=outputs,
                taps=taps,
                height=height,
                width=width,
                shared_columns=shared_columns,
                stream=stream,
            )
    return out


def _aligned(x: Tensor) -> Tensor:
    """``x``, or a copy where it begins within the 16 bytes that are read at once."""
    return x.clone() if x.data_ptr() % _LOAD else x
