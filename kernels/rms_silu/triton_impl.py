"""RMSNorm and SiLU in Triton: a few whole positions for each program, read once and written once.

The remembered frames are copied by the first programs of the same launch.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

PER_BIT = tl.constexpr(1 / math.log(2))
TILE = 2048  # elements for each program


@triton.jit
def _silu(y, ROUNDED: tl.constexpr):
    """y * sigmoid(y), where the result is rounded later by a square that saves a quotient's instructions."""
    divisor = 1.0 + tl.exp2(y * -PER_BIT)
    if ROUNDED:
        root = tl.rsqrt(divisor)
        return y * root * root
    return y / divisor


@triton.jit
def _kernel(
    out_ptr, x_ptr, history_ptr, gamma_ptr, past, present, width, root,
    ROUNDED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    copies = tl.cdiv(past, ROWS)
    columns = tl.arange(0, BLOCK)[None, :]  # of two axes, so that gamma lies in the registers as a row does
    if tl.program_id(0) < copies:
        rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        inside = (rows < past) & (columns < width)
        kept = tl.load(history_ptr + (batch * past + rows) * width + columns, mask=inside)
        tl.store(out_ptr + (batch * (past + present) + rows) * width + columns, kept, mask=inside)
    else:
        rows = (tl.program_id(0) - copies).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
        inside = (rows < present) & (columns < width)
        x = tl.load(x_ptr + (batch * present + rows) * width + columns, mask=inside, other=0.0).to(tl.float32)
        length = tl.maximum(tl.sqrt(tl.sum(x * x, axis=1)), 1e-12)
        gamma = tl.load(gamma_ptr + columns, mask=columns < width, other=0.0).to(tl.float32)
        y = _silu(x * (root / length)[:, None] * gamma, ROUNDED)
        at_out = (batch * (past + present) + past + rows) * width + columns
        tl.store(out_ptr + at_out, y.to(out_ptr.dtype.element_ty), mask=inside)


def tile(width: int, length: int) -> dict[str, int]:
    """Positions of one program, the power of two that holds one, and warps of 16 to 32 elements a thread.

    The same on every family: nothing but memory bounds the work.
    """
    block = triton.next_power_of_2(width)
    rows = max(1, min(TILE // block, triton.next_power_of_2(length)))
    return {"ROWS": rows, "BLOCK": block, "num_warps": max(1, min(8, rows * block // 512))}


def run(x_NTYXC: Tensor, gamma_C: Tensor, history_NPYXC: Tensor | None) -> Tensor:
    """The op of this folder; inputs as checked by its wrapper."""
    batch, frames, rows, columns, width = x_NTYXC.shape
    x_NTYXC, gamma_C = x_NTYXC.contiguous(), gamma_C.contiguous()
    remembered = 0 if history_NPYXC is None else history_NPYXC.shape[1]
    history = x_NTYXC if history_NPYXC is None else history_NPYXC.contiguous()  # of no history nothing is read
    out = torch.empty((batch, remembered + frames, rows, columns, width), dtype=x_NTYXC.dtype, device=x_NTYXC.device)
    past, present = remembered * rows * columns, frames * rows * columns
    config = {"ROUNDED": out.dtype != torch.float32, **tile(width, present)}
    programs = sum(triton.cdiv(length, config["ROWS"]) for length in (past, present))
    with torch.cuda.device_of(out):
        _kernel[(programs, batch)](out, x_NTYXC, history, gamma_C, past, present, width, width**0.5, **config)
    return out
