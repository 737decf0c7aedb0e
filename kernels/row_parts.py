"""Whole rows in parts, a tuple of tiles side by side, for the Triton code of every op that needs a row at once.

A tile is a power of two wide and rows are not: 1536 in one tile of 2048 leaves a quarter of the lanes idle, 8960 in one
of 16384 nearly half, and their masks cost instructions in all. In tiles of a few elements a thread, besides, the lanes
of a warp read one stretch of memory together whatever the widths of what is read and written; in one tile each lane
keeps as many neighbours as fit 16 bytes of e4m3, and reads in float32 then take four times the L1 cache's cycles.
Imports Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl

PROGRAM_ELEMENTS = 2048  # of one program, unless a row has more
MOST_PARTS = 9


@triton.jit
def load_part(row_ptr, there, START: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Columns START to START + BLOCK in float32 of the rows at ``row_ptr`` (R, 1), those ``there``; 0 elsewhere."""
    columns = START + tl.arange(0, BLOCK)[None, :]
    inside = there if START + BLOCK <= WIDTH else there & (columns < WIDTH)
    return tl.load(row_ptr + columns, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def load_vector_part(ptr, START: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """The same of a vector for all rows: (1, BLOCK)."""
    columns = START + tl.arange(0, BLOCK)[None, :]
    if START + BLOCK <= WIDTH:
        return tl.load(ptr + columns).to(tl.float32)
    else:
        return tl.load(ptr + columns, mask=columns < WIDTH, other=0.0).to(tl.float32)


@triton.jit
def store_part(row_ptr, part, there, START: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Write a part in the dtype of what ``row_ptr`` points to."""
    columns = START + tl.arange(0, BLOCK)[None, :]
    inside = there if START + BLOCK <= WIDTH else there & (columns < WIDTH)
    tl.store(row_ptr + columns, part.to(row_ptr.dtype.element_ty), mask=inside)


@triton.jit
def load_rows(row_ptr, there, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """All parts of the rows."""
    parts = ()
    for start in tl.static_range(0, WIDTH, BLOCK):
        parts += (load_part(row_ptr, there, start, WIDTH, BLOCK),)
    return parts


@triton.jit
def store_rows(row_ptr, parts, there, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    for start in tl.static_range(0, WIDTH, BLOCK):
        store_part(row_ptr, parts[start // BLOCK], there, start, WIDTH, BLOCK)


def tile(width: int, length: int) -> dict[str, int]:
    """Rows of one program, columns of one part, and warps, with four elements of a part for each thread.

    Threads enough that one holds 36 elements at most, up to 36,864 columns: then a processor has room for several
    programs. The same on every family: nothing but memory bounds the work.
    """
    whole = triton.next_power_of_2(width)
    rows = max(1, min(PROGRAM_ELEMENTS // whole, triton.next_power_of_2(length)))
    block = min(whole, max(128, whole // 4), 1024)
    while MOST_PARTS * block < width and block < 4096:
        block *= 2
    return {"ROWS": rows, "BLOCK": block, "num_warps": max(1, rows * block // 128)}
