"""Quantisation with one scale in Triton: a pass over all values that finds centre and scale, and one that writes.

Nothing is written before the largest distance from the centre is known, so two reads and one write are the least there
is, unless what makes the tensor knows a bound. The first pass keeps sum, lowest and highest of each column, which give
the distance without a third read: rounding x - centre keeps the order of the x, so the largest is that of the lowest
or the highest. Sums are added up in one order, always the same. The second pass begins where the first ended: what
that read last is still in the cache. Tiles are a part of a row wide: of widths like 1536 and 5120 no lane is idle.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from humo_rt.kernels.float8 import empty_rows
from humo_rt.kernels.row_quantize import LARGEST, SMALLEST

INFINITY = tl.constexpr(math.inf)
# A program of the first pass goes through so many tiles below one another, fewer where it would leave processors idle.
LARGEST_TILES, PROGRAMS = 32, 1024
FOLDED, COLUMNS = 128, 16  # what its programs found, and columns, in one tile of the pass that folds that


@triton.jit
def _tile(x_ptr, rows, length, width, x_batch, x_row, BLOCK: tl.constexpr):
    """Values of a tile in float32; its columns; which of its elements there are."""
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (rows < length)[:, None] & (columns < width)
    at = tl.program_id(2).to(tl.int64) * x_batch + rows[:, None] * x_row + columns
    return tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32), columns, inside


@triton.jit
def _columns_kernel(
    total_ptr, low_ptr, high_ptr, amax_ptr, x_ptr, length, width, x_batch, x_row,
    TILES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.float32)
    low, high = total + INFINITY, total - INFINITY
    for number in range(TILES):
        rows = (chunk * TILES + number) * ROWS + tl.arange(0, ROWS)
        x, _, inside = _tile(x_ptr, rows, length, width, x_batch, x_row, BLOCK)
        total += tl.sum(x, axis=0)
        low = tl.minimum(low, tl.min(tl.where(inside, x, INFINITY), axis=0))
        high = tl.maximum(high, tl.max(tl.where(inside, x, -INFINITY), axis=0))
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at = (tl.program_id(2) * tl.num_programs(0) + chunk) * width + columns
    tl.store(total_ptr + at, total, mask=columns < width)
    tl.store(low_ptr + at, low, mask=columns < width)
    tl.store(high_ptr + at, high, mask=columns < width)
    tl.store(amax_ptr, 0.0)  # where the next pass begins; every program writes the same


@triton.jit
def _centre_kernel(
    centre_ptr, amax_ptr, total_ptr, low_ptr, high_ptr, chunks, length, width,
    CENTRED: tl.constexpr, FOLDED: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((FOLDED, COLUMNS), tl.float32)
    low, high = total + INFINITY, total - INFINITY
    for start in range(0, chunks, FOLDED):
        chunk = start + tl.arange(0, FOLDED)[:, None]
        inside = (chunk < chunks) & (columns < width)[None, :]
        at = (batch * chunks + chunk) * width + columns[None, :]
        total += tl.load(total_ptr + at, mask=inside, other=0.0)
        low = tl.minimum(low, tl.load(low_ptr + at, mask=inside, other=INFINITY))
        high = tl.maximum(high, tl.load(high_ptr + at, mask=inside, other=-INFINITY))
    centre = tl.sum(total, axis=0) / length if CENTRED else tl.zeros((COLUMNS,), tl.float32)
    tl.store(centre_ptr + batch * width + columns, centre, mask=columns < width)
    distance = tl.maximum(tl.max(high, axis=0) - centre, centre - tl.min(low, axis=0))
    tl.atomic_max(amax_ptr, tl.max(tl.where(columns < width, distance, 0.0), axis=0))


@triton.jit
def _quantize_kernel(
    values_ptr, scale_ptr, amax_ptr, centre_ptr, x_ptr, length, width, x_batch, x_row, padding,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(2).to(tl.int64)
    last_first = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)
    rows = last_first * ROWS + tl.arange(0, ROWS)
    x, columns, inside = _tile(x_ptr, rows, length, width, x_batch, x_row, BLOCK)
    x -= tl.load(centre_ptr + batch * width + columns, mask=columns < width, other=0.0)
    amax = tl.maximum(tl.load(amax_ptr), SMALLEST)
    values = x * (1.0 / amax * LARGEST)
    at_out = (batch * (length + padding) + rows[:, None]) * width + columns
    tl.store(values_ptr + at_out, values.to(values_ptr.dtype.element_ty), mask=inside)
    tl.store(scale_ptr, amax / LARGEST)  # every program writes the same


def tile(width: int, length: int) -> dict[str, int]:
    """Tiles of at most 512 columns and of 8192 elements, 32 for each thread: 16-byte loads, four of them at once."""
    block = min(512, triton.next_power_of_2(width))
    rows = min(8192 // block, triton.next_power_of_2(length))
    return {"ROWS": rows, "BLOCK": block, "num_warps": max(1, rows * block // 1024)}


def column_tile(width: int, length: int, batch: int) -> dict[str, int]:
    """Of 4096 elements, 64 for each thread, and how many of them below one another.

    With 512 columns of two bytes a thread has all rows of eight of them, which it loads at once and reduces alone.
    """
    block = min(512, triton.next_power_of_2(width))
    rows = min(4096 // block, triton.next_power_of_2(length))
    number = triton.cdiv(batch * triton.cdiv(width, block) * triton.cdiv(length, rows), PROGRAMS)
    tiles = min(LARGEST_TILES, triton.next_power_of_2(number))
    return {"TILES": tiles, "ROWS": rows, "BLOCK": block, "num_warps": max(1, rows * block // 2048)}


def run(x_BLD: Tensor, centred: bool, padding: int) -> tuple[Tensor, Tensor, Tensor]:
    """The op of this folder; inputs as checked by its wrapper."""
    batch, length, width = x_BLD.shape
    x_BLD = x_BLD if x_BLD.stride(-1) == 1 else x_BLD.contiguous()
    given = (x_BLD, length, width, x_BLD.stride(0), x_BLD.stride(1))
    across, down = column_tile(width, length, batch), tile(width, length)
    chunks = triton.cdiv(length, across["TILES"] * across["ROWS"])
    number = {"dtype": torch.float32, "device": x_BLD.device}
    found = torch.empty(3, batch, chunks, width, **number).unbind()
    centre_B1D, amax_1, scale_1 = (torch.empty(shape, **number) for shape in ((batch, 1, width), (1,), (1,)))
    values = empty_rows((batch, length, width), padding, x_BLD.device)
    with torch.cuda.device_of(values):
        _columns_kernel[chunks, triton.cdiv(width, across["BLOCK"]), batch](*found, amax_1, *given, **across)
        _centre_kernel[triton.cdiv(width, COLUMNS), batch](
            centre_B1D, amax_1, *found, chunks, length, width, CENTRED=centred, FOLDED=FOLDED, COLUMNS=COLUMNS
        )
        _quantize_kernel[triton.cdiv(length, down["ROWS"]), triton.cdiv(width, down["BLOCK"]), batch](
            values, scale_1, amax_1, centre_B1D, *given, padding, **down
        )
    return values, scale_1, centre_B1D
