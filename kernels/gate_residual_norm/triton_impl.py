"""Gate, residual and the next LayerNorm in Triton: whole rows of one branch for each program, moved once.

``launch`` also serves ``gate_residual_norm_quantize``, because rows in e4m3 with a scale each cost no further pass,
``scatter_residual_norm``, whose rows lie apart in the residual, and ``residual_norm``, which keeps no total.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from humo_rt.kernels.row_norm import layer_norm
from humo_rt.kernels.row_parts import load_part, load_vector_part, store_rows, tile
from humo_rt.kernels.row_quantize import store_quantized


@triton.jit
def _kernel(
    total_ptr, normed_ptr, row_scale_ptr,
    residual_ptr, y_ptr, earlier_ptr, at_ptr, gate_ptr, shift_ptr, scale_ptr,
    length, out_length, residual_batch, residual_row, y_batch, y_row, earlier_batch, earlier_row,
    gate_batch, shift_batch, scale_batch, eps,
    KEPT: tl.constexpr, EARLIER: tl.constexpr, SCATTERED: tl.constexpr, GATED: tl.constexpr,
    MODULATED: tl.constexpr, QUANTIZED: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    there = rows < length
    target = tl.load(at_ptr + rows, mask=there, other=0) if SCATTERED else rows
    at_row = batch * out_length + target
    residual_ptr += batch * residual_batch + target * residual_row
    y_ptr += batch * y_batch + rows * y_row
    earlier_ptr += batch * earlier_batch + rows * earlier_row
    gate_ptr += batch * gate_batch
    total_ptr += at_row * WIDTH
    total = ()
    for start in tl.static_range(0, WIDTH, BLOCK):
        y = load_part(y_ptr, there, start, WIDTH, BLOCK)
        if GATED:
            y *= load_vector_part(gate_ptr, start, WIDTH, BLOCK)
        part = load_part(residual_ptr, there, start, WIDTH, BLOCK)
        if EARLIER:
            part += load_part(earlier_ptr, there, start, WIDTH, BLOCK)
        total += ((part + y).to(total_ptr.dtype.element_ty).to(tl.float32),)

    if KEPT:  # after all parts are loaded: a load waits for the stores before it
        store_rows(total_ptr, total, there, WIDTH, BLOCK)
    shift_ptr += batch * shift_batch
    scale_ptr += batch * scale_batch
    normed = layer_norm(total, shift_ptr, scale_ptr, eps, MODULATED, WIDTH, BLOCK)
    normed_ptr += at_row * WIDTH
    if QUANTIZED:
        store_quantized(normed_ptr, row_scale_ptr + at_row, normed, there, WIDTH, BLOCK)
    else:
        store_rows(normed_ptr, normed, there, WIDTH, BLOCK)


def run(
    residual_BLD: Tensor,
    y_BLD: Tensor,
    gate_B1D: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    modulated: bool,
    eps: float,
    dtype: torch.dtype,
    earlier_BLD: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The op of this folder; inputs as checked by its wrapper."""
    total_BLD = torch.empty(residual_BLD.shape, dtype=residual_BLD.dtype, device=residual_BLD.device)
    normed_BLD = torch.empty(residual_BLD.shape, dtype=dtype, device=residual_BLD.device)
    launch(total_BLD, normed_BLD, None, residual_BLD, y_BLD, gate_B1D, shift, scale, modulated, eps, earlier_BLD)
    return total_BLD, normed_BLD


def launch(
    total_BLD: Tensor | None,
    normed_BLD: Tensor,
    row_scale_BL1: Tensor | None,
    residual_BLD: Tensor,
    y_BLD: Tensor,
    gate_B1D: Tensor | None,
    shift: Tensor,
    scale: Tensor,
    modulated: bool,
    eps: float,
    earlier_BLD: Tensor | None = None,
    at_L: Tensor | None = None,
) -> None:
    """Write total, unless it is None, and norm, contiguous both; with ``row_scale_BL1`` the norm in e4m3 and its scales
    there.

    ``at_L``: where in residual and results the rows of y belong, which may be fewer; the total may be the residual.
    """
    batch, length, width = y_BLD.shape
    gated, quantized, kept = gate_B1D is not None, row_scale_BL1 is not None, total_BLD is not None
    residual_BLD, y_BLD = (x if x.stride(-1) == 1 else x.contiguous() for x in (residual_BLD, y_BLD))
    earlier = y_BLD if earlier_BLD is None else earlier_BLD  # without one its address is never read
    earlier = earlier if earlier.stride(-1) == 1 else earlier.contiguous()
    vectors = (gate_B1D if gated else shift, shift, scale)  # without a gate its address is never read
    gate, shift, scale = (v if v.stride(-1) == 1 else v.contiguous() for v in vectors)
    gate, shift, scale = (vector.expand(batch, 1, width) for vector in (gate, shift, scale))
    config = tile(width, length)
    with torch.cuda.device_of(normed_BLD):
        _kernel[(triton.cdiv(length, config["ROWS"]), batch)](
            total_BLD if kept else residual_BLD,  # of its dtype, and not written
            normed_BLD, row_scale_BL1 if quantized else normed_BLD,
            residual_BLD, y_BLD, earlier, y_BLD if at_L is None else at_L.contiguous(), gate, shift, scale,
            length, normed_BLD.shape[1],
            *residual_BLD.stride()[:2], *y_BLD.stride()[:2], *earlier.stride()[:2],
            gate.stride(0), shift.stride(0), scale.stride(0), eps,
            KEPT=kept, EARLIER=earlier_BLD is not None, SCATTERED=at_L is not None, GATED=gated,
            MODULATED=modulated, QUANTIZED=quantized, WIDTH=width, **config,
        )  # fmt: skip
