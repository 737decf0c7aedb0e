"""LayerNorm and modulation in Triton: a few whole rows of one branch for each program, read and written once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from humo_rt.kernels.row_norm import standardised, tile


@triton.jit
def _kernel(
    out_ptr, x_ptr, shift_ptr, scale_ptr,
    length, width, x_batch, x_row, shift_batch, scale_batch, eps,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
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
    at_out = out_ptr + (batch * length + rows[:, None]) * width + columns
    tl.store(at_out, result.to(out_ptr.dtype.element_ty), mask=inside)


def run(x_BLD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """The op of this folder; inputs as checked by its wrapper."""
    batch, length, width = x_BLD.shape
    x_BLD, shift_B1D, scale_B1D = (v if v.stride(-1) == 1 else v.contiguous() for v in (x_BLD, shift_B1D, scale_B1D))
    shift_B1D, scale_B1D = (vector.expand(batch, 1, width) for vector in (shift_B1D, scale_B1D))
    out_BLD = torch.empty(x_BLD.shape, dtype=dtype, device=x_BLD.device)
    config = tile(width, length)
    with torch.cuda.device_of(out_BLD):
        _kernel[(triton.cdiv(length, config["ROWS"]), batch)](
            out_BLD, x_BLD, shift_B1D, scale_B1D,
            length, width, x_BLD.stride(0), x_BLD.stride(1), shift_B1D.stride(0), scale_B1D.stride(0), eps,
            **config,
        )  # fmt: skip
    return out_BLD
