"""LayerNorm and modulation in Triton: whole rows of one branch for each program, read and written once.

``launch`` also serves ``adaln_modulate_quantize``, because rows in e4m3 with a scale each cost no further pass, and
``gather_norm``, whose rows lie apart in x.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from humo_rt.kernels.row_norm import layer_norm
from humo_rt.kernels.row_parts import load_rows, store_rows, tile
from humo_rt.kernels.row_quantize import store_quantized


@triton.jit
def _kernel(
    out_ptr, row_scale_ptr, x_ptr, from_ptr, shift_ptr, scale_ptr,
    length, x_batch, x_row, shift_batch, scale_batch, eps,
    GATHERED: tl.constexpr, MODULATED: tl.constexpr, QUANTIZED: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    there = rows < length
    source = tl.load(from_ptr + rows, mask=there, other=0) if GATHERED else rows
    x = load_rows(x_ptr + batch * x_batch + source * x_row, there, WIDTH, BLOCK)
    shift_ptr += batch * shift_batch
    scale_ptr += batch * scale_batch
    result = layer_norm(x, shift_ptr, scale_ptr, eps, MODULATED, WIDTH, BLOCK)
    at_row = batch * length + rows
    out_ptr += at_row * WIDTH
    if QUANTIZED:
        store_quantized(out_ptr, row_scale_ptr + at_row, result, there, WIDTH, BLOCK)
    else:
        store_rows(out_ptr, result, there, WIDTH, BLOCK)


def run(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """The op of this folder; inputs as checked by its wrapper."""
    out_BLD = torch.empty(x_BLD.shape, dtype=dtype, device=x_BLD.device)
    launch(out_BLD, None, x_BLD, shift_B1D, scale_B1D, eps)
    return out_BLD


def launch(
    out_BLD: Tensor,
    row_scale_BL1: Tensor | None,
    x_BLD: Tensor,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    from_L: Tensor | None = None,
) -> None:
    """Write the rows to ``out_BLD``; with ``row_scale_BL1`` they are e4m3 and their scales go there.

    ``from_L``: where in x they are, which may have others; then shift and scale, (D,), are a norm's bias and weight.
    """
    batch, length, width = out_BLD.shape
    quantized, gathered = row_scale_BL1 is not None, from_L is not None
    x_BLD, shift, scale = (v if v.stride(-1) == 1 else v.contiguous() for v in (x_BLD, shift, scale))
    shift, scale = (vector.expand(batch, 1, width) for vector in (shift, scale))
    config = tile(width, length)
    with torch.cuda.device_of(out_BLD):
        _kernel[(triton.cdiv(length, config["ROWS"]), batch)](
            out_BLD, row_scale_BL1 if quantized else out_BLD,  # without scales their address is never used
            x_BLD, from_L.contiguous() if gathered else x_BLD, shift, scale,
            length, x_BLD.stride(0), x_BLD.stride(1), shift.stride(0), scale.stride(0), eps,
            GATHERED=gathered, MODULATED=not gathered, QUANTIZED=quantized, WIDTH=width, **config,
        )  # fmt: skip
