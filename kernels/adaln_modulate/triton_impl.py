"""LayerNorm and modulation in Triton: a few whole rows of one branch for each program, read and written once.

``launch`` also serves ``adaln_modulate_quantize``: rows in e4m3 with a scale each cost no further pass.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from humo_rt.kernels.row_norm import standardised, tile
from humo_rt.kernels.row_quantize import store_quantized


@triton.jit
def _kernel(
    out_ptr, row_scale_ptr, x_ptr, shift_ptr, scale_ptr,
    length, width, x_batch, x_row, shift_batch, scale_batch, eps,
    QUANTIZED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)[None, :]  # of two axes, so that a vector lies in the registers as a row does
    inside = (rows < length)[:, None] & (columns < width)
    at_x = x_ptr + batch * x_batch + rows[:, None] * x_row + columns
    x = tl.load(at_x, mask=inside, other=0.0).to(tl.float32)
    normed = standardised(x, inside, width, eps)
    # Loaded after the reduction, so that they take no registers during it: a wide row then leaves room for more rows.
    shift = tl.load(shift_ptr + batch * shift_batch + columns, mask=columns < width, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + batch * scale_batch + columns, mask=columns < width, other=0.0).to(tl.float32)
    result = normed * (1 + scale) + shift
    at_row = batch * length + rows
    at_out = at_row[:, None] * width + columns
    if QUANTIZED:
        store_quantized(out_ptr, row_scale_ptr, result, at_out, at_row, inside, rows < length)
    else:
        tl.store(out_ptr + at_out, result.to(out_ptr.dtype.element_ty), mask=inside)


def run(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """The op of this folder; inputs as checked by its wrapper."""
    out_BLD = torch.empty(x_BLD.shape, dtype=dtype, device=x_BLD.device)
    launch(out_BLD, None, x_BLD, shift_B1D, scale_B1D, eps)
    return out_BLD


def launch(
    out_BLD: Tensor, row_scale_BL1: Tensor | None, x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float
) -> None:
    """Write the rows to ``out_BLD``; with ``row_scale_BL1`` they are e4m3 and their scales go there."""
    batch, length, width = x_BLD.shape
    quantized = row_scale_BL1 is not None
    x_BLD, shift_B1D, scale_B1D = (v if v.stride(-1) == 1 else v.contiguous() for v in (x_BLD, shift_B1D, scale_B1D))
    shift_B1D, scale_B1D = (vector.expand(batch, 1, width) for vector in (shift_B1D, scale_B1D))
    config = tile(width, length)
    with torch.cuda.device_of(out_BLD):
        _kernel[(triton.cdiv(length, config["ROWS"]), batch)](
            out_BLD, row_scale_BL1 if quantized else out_BLD,  # without scales their address is never used
            x_BLD, shift_B1D, scale_B1D,
            length, width, x_BLD.stride(0), x_BLD.stride(1), shift_B1D.stride(0), scale_B1D.stride(0), eps,
            QUANTIZED=quantized, **config,
        )  # fmt: skip
