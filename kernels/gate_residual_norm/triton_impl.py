"""Gate, residual and the next LayerNorm in Triton: a few whole rows of one branch for each program, moved once.

``launch`` also serves ``gate_residual_norm_quantize``, because rows in e4m3 with a scale each cost no further pass, and
``scatter_residual_norm``, whose rows lie apart in the residual.
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
    total_ptr, normed_ptr, row_scale_ptr,
    residual_ptr, y_ptr, at_ptr, gate_ptr, shift_ptr, scale_ptr,
    length, out_length, width, residual_batch, residual_row, y_batch, y_row, gate_batch, shift_batch, scale_batch, eps,
    SCATTERED: tl.constexpr, GATED: tl.constexpr, MODULATED: tl.constexpr,
    QUANTIZED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)[None, :]  # of two axes, so that a vector lies in the registers as a row does
    within = columns < width
    there = rows < length
    inside = there[:, None] & within
    target = tl.load(at_ptr + rows, mask=there, other=0) if SCATTERED else rows
    at_residual = residual_ptr + batch * residual_batch + target[:, None] * residual_row + columns
    at_y = y_ptr + batch * y_batch + rows[:, None] * y_row + columns
    total = tl.load(at_residual, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(at_y, mask=inside, other=0.0).to(tl.float32)
    if GATED:
        y *= tl.load(gate_ptr + batch * gate_batch + columns, mask=within, other=0.0).to(tl.float32)
    written = (total + y).to(total_ptr.dtype.element_ty)
    at_row = batch * out_length + target
    at_out = at_row[:, None] * width + columns
    tl.store(total_ptr + at_out, written, mask=inside)

    normed = standardised(written.to(tl.float32), inside, width, eps)
    # Loaded after the reduction, so that they take no registers during it: a wide row then leaves room for more rows.
    shift = tl.load(shift_ptr + batch * shift_batch + columns, mask=within, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + batch * scale_batch + columns, mask=within, other=0.0).to(tl.float32)
    if MODULATED:
        scale += 1.0
    normed = normed * scale + shift
    if QUANTIZED:
        store_quantized(normed_ptr, row_scale_ptr, normed, at_out, at_row, inside, there)
    else:
        tl.store(normed_ptr + at_out, normed.to(normed_ptr.dtype.element_ty), mask=inside)


def run(
    residual_BLD: Tensor,
    y_BLD: Tensor,
    gate_B1D: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    modulated: bool,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The op of this folder; inputs as checked by its wrapper."""
    total_BLD = torch.empty(residual_BLD.shape, dtype=residual_BLD.dtype, device=residual_BLD.device)
    normed_BLD = torch.empty(residual_BLD.shape, dtype=dtype, device=residual_BLD.device)
    launch(total_BLD, normed_BLD, None, residual_BLD, y_BLD, gate_B1D, shift, scale, modulated, eps)
    return total_BLD, normed_BLD


def launch(
    total_BLD: Tensor,
    normed_BLD: Tensor,
    row_scale_BL1: Tensor | None,
    residual_BLD: Tensor,
    y_BLD: Tensor,
    gate_B1D: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    modulated: bool,
    eps: float,
    at_L: Tensor | None = None,
) -> None:
    """Write total and norm, contiguous both, with ``row_scale_BL1`` the norm in e4m3 and its scales there.

    ``at_L``: where in residual and results the rows of y belong, which may be fewer; the total may be the residual.
    """
    batch, length, width = y_BLD.shape
    gated, quantized = gate_B1D is not None, row_scale_BL1 is not None
    residual_BLD, y_BLD = (x if x.stride(-1) == 1 else x.contiguous() for x in (residual_BLD, y_BLD))
    vectors = (gate_B1D if gated else shift, shift, scale)  # without a gate its address is never read
    gate, shift, scale = (v if v.stride(-1) == 1 else v.contiguous() for v in vectors)
    gate, shift, scale = (vector.expand(batch, 1, width) for vector in (gate, shift, scale))
    config = tile(width, length)
    with torch.cuda.device_of(total_BLD):
        _kernel[(triton.cdiv(length, config["ROWS"]), batch)](
            total_BLD, normed_BLD, row_scale_BL1 if quantized else normed_BLD,
            residual_BLD, y_BLD, y_BLD if at_L is None else at_L.contiguous(), gate, shift, scale,
            length, total_BLD.shape[1], width,
            residual_BLD.stride(0), residual_BLD.stride(1), y_BLD.stride(0), y_BLD.stride(1),
            gate.stride(0), shift.stride(0), scale.stride(0), eps,
            SCATTERED=at_L is not None, GATED=gated, MODULATED=modulated, QUANTIZED=quantized,
            **config,
        )  # fmt: skip
