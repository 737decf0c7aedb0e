"""Quantisation with one scale in Triton: a pass that finds the largest value, and one that reads again and writes.

Nothing is written before the largest of all values is known, so two reads and one write are the least there is, unless
what makes the tensor knows a bound.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from humo_rt.kernels.float8 import FLOAT8
from humo_rt.kernels.row_norm import tile
from humo_rt.kernels.row_quantize import LARGEST, SMALLEST

TILES = 8  # tiles that one program of the first pass looks through: fewer programs meet at one address


@triton.jit
def _maximum_kernel(
    amax_ptr, x_ptr, centre_ptr, length, width, x_batch, x_row,
    CENTRED: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    centre = tl.load(centre_ptr + batch * width + columns, mask=columns < width, other=0.0) if CENTRED else 0.0
    largest = tl.zeros((ROWS, BLOCK), tl.float32)
    for number in range(TILES):
        rows = (tl.program_id(0).to(tl.int64) * TILES + number) * ROWS + tl.arange(0, ROWS)
        inside = (rows < length)[:, None] & (columns < width)[None, :]
        at = batch * x_batch + rows[:, None] * x_row + columns[None, :]
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if CENTRED:
            x = tl.where(inside, x - centre[None, :], 0.0)
        largest = tl.maximum(largest, tl.abs(x))
    tl.atomic_max(amax_ptr, tl.max(tl.max(largest, axis=1), axis=0))


@triton.jit
def _quantize_kernel(
    values_ptr, scale_ptr, amax_ptr, x_ptr, centre_ptr, length, width, x_batch, x_row,
    CENTRED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    inside = (rows < length)[:, None] & (columns < width)[None, :]
    amax = tl.maximum(tl.load(amax_ptr), SMALLEST)
    at = batch * x_batch + rows[:, None] * x_row + columns[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if CENTRED:
        x -= tl.load(centre_ptr + batch * width + columns, mask=columns < width, other=0.0)[None, :]
    values = x * (1.0 / amax * LARGEST)
    at_out = (batch * length + rows[:, None]) * width + columns[None, :]
    tl.store(values_ptr + at_out, values.to(values_ptr.dtype.element_ty), mask=inside)
    tl.store(scale_ptr, amax / LARGEST)  # every program writes the same


def run(x_BLD: Tensor, centre_B1D: Tensor | None) -> tuple[Tensor, Tensor]:
    """The op of this folder; inputs as checked by its wrapper."""
    batch, length, width = x_BLD.shape
    x_BLD = x_BLD if x_BLD.stride(-1) == 1 else x_BLD.contiguous()
    values_BLD = torch.empty(x_BLD.shape, dtype=FLOAT8, device=x_BLD.device)
    amax_1 = torch.zeros(1, dtype=torch.float32, device=x_BLD.device)
    scale_1 = torch.empty(1, dtype=torch.float32, device=x_BLD.device)
    centre = x_BLD if centre_B1D is None else centre_B1D.contiguous()  # without one its address is never read
    given = (x_BLD, centre, length, width, x_BLD.stride(0), x_BLD.stride(1))
    config = {"CENTRED": centre_B1D is not None, **tile(width, length)}
    blocks = triton.cdiv(length, config["ROWS"])
    with torch.cuda.device_of(values_BLD):
        few = (triton.cdiv(blocks, TILES), batch)
        _maximum_kernel[few](amax_1, *given, TILES=TILES, **config)
        _quantize_kernel[(blocks, batch)](values_BLD, scale_1, amax_1, *given, **config)
    return values_BLD, scale_1
