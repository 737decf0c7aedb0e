"""Quantisation with one scale in Triton: a pass that finds the largest value, and one that reads again and writes.

Nothing is written before the largest of all values is known, so two reads and one write are the least there is, unless
what makes the tensor knows a bound. The second pass begins where the first ended: what that read last is still in the
cache. Tiles are a part of a row wide, as no value asks for the rest of its row: of widths like 1536 and 5120 no lane is
idle.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from humo_rt.kernels.float8 import FLOAT8
from humo_rt.kernels.row_quantize import LARGEST, SMALLEST

TILES = 4  # tiles that one program of the first pass looks through: fewer programs meet at one address


@triton.jit
def _tile(x_ptr, centre_ptr, rows, length, width, x_batch, x_row, CENTRED: tl.constexpr, BLOCK: tl.constexpr):
    """Values of a tile less their centre in float32; its columns; which of its elements there are."""
    batch = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (rows < length)[:, None] & (columns < width)
    x = tl.load(x_ptr + batch * x_batch + rows[:, None] * x_row + columns, mask=inside, other=0.0).to(tl.float32)
    if CENTRED:
        x -= tl.load(centre_ptr + batch * width + columns, mask=columns < width, other=0.0)
    return x, columns, inside


@triton.jit
def _maximum_kernel(
    amax_ptr, x_ptr, centre_ptr, length, width, x_batch, x_row,
    CENTRED: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    largest = tl.zeros((ROWS, BLOCK), tl.float32)
    for number in range(TILES):
        rows = (tl.program_id(0).to(tl.int64) * TILES + number) * ROWS + tl.arange(0, ROWS)
        x, _, inside = _tile(x_ptr, centre_ptr, rows, length, width, x_batch, x_row, CENTRED, BLOCK)
        largest = tl.maximum(largest, tl.where(inside, tl.abs(x), 0.0))
    tl.atomic_max(amax_ptr, tl.max(tl.max(largest, axis=1), axis=0))


@triton.jit
def _quantize_kernel(
    values_ptr, scale_ptr, amax_ptr, x_ptr, centre_ptr, length, width, x_batch, x_row,
    CENTRED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    last_first = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)
    rows = last_first * ROWS + tl.arange(0, ROWS)
    x, columns, inside = _tile(x_ptr, centre_ptr, rows, length, width, x_batch, x_row, CENTRED, BLOCK)
    amax = tl.maximum(tl.load(amax_ptr), SMALLEST)
    values = x * (1.0 / amax * LARGEST)
    at_out = (tl.program_id(2).to(tl.int64) * length + rows[:, None]) * width + columns
    tl.store(values_ptr + at_out, values.to(values_ptr.dtype.element_ty), mask=inside)
    tl.store(scale_ptr, amax / LARGEST)  # every program writes the same


def tile(width: int, length: int) -> dict[str, int]:
    """Tiles of at most 512 columns and of 8192 elements, 32 for each thread: 16-byte loads, four of them at once."""
    block = min(512, triton.next_power_of_2(width))
    rows = min(8192 // block, triton.next_power_of_2(length))
    return {"ROWS": rows, "BLOCK": block, "num_warps": max(1, rows * block // 1024)}


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
    blocks, parts = triton.cdiv(length, config["ROWS"]), triton.cdiv(width, config["BLOCK"])
    with torch.cuda.device_of(values_BLD):
        _maximum_kernel[(triton.cdiv(blocks, TILES), parts, batch)](amax_1, *given, TILES=TILES, **config)
        _quantize_kernel[(blocks, parts, batch)](values_BLD, scale_1, amax_1, *given, **config)
    return values_BLD, scale_1
