"""RMSNorm and SiLU in Triton: a few whole positions for each program, read once and written once.

The remembered frames are copied by the same launch: a position of theirs is loaded from another tensor and not touched.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from humo_rt.kernels.row_norm import tile


@triton.jit
def _kernel(
    out_ptr, x_ptr, history_ptr, gamma_ptr, past, present, width, root,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    within = (columns < width)[None, :]
    old = (rows < past)[:, None]
    new = ((rows >= past) & (rows < past + present))[:, None]
    at_old = history_ptr + (batch * past + rows[:, None]) * width + columns[None, :]
    at_new = x_ptr + (batch * present + rows[:, None] - past) * width + columns[None, :]
    kept = tl.load(at_old, mask=old & within, other=0.0)
    x = tl.load(at_new, mask=new & within, other=0.0).to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(x * x, axis=1)), 1e-12)
    gamma = tl.load(gamma_ptr + columns, mask=columns < width, other=0.0).to(tl.float32)
    y = x * (root / length)[:, None] * gamma[None, :]
    written = tl.where(old, kept, (y / (1 + tl.exp(-y))).to(out_ptr.dtype.element_ty))
    at_out = out_ptr + (batch * (past + present) + rows[:, None]) * width + columns[None, :]
    tl.store(at_out, written, mask=(old | new) & within)


def run(x_NTYXC: Tensor, gamma_C: Tensor, history_NPYXC: Tensor | None) -> Tensor:
    """The op of this folder; inputs as checked by its wrapper."""
    batch, frames, rows, columns, width = x_NTYXC.shape
    x_NTYXC, gamma_C = x_NTYXC.contiguous(), gamma_C.contiguous()
    remembered = 0 if history_NPYXC is None else history_NPYXC.shape[1]
    history = x_NTYXC if history_NPYXC is None else history_NPYXC.contiguous()  # of no history nothing is read
    out = torch.empty((batch, remembered + frames, rows, columns, width), dtype=x_NTYXC.dtype, device=x_NTYXC.device)
    past, present = remembered * rows * columns, frames * rows * columns
    config = tile(width, past + present)
    with torch.cuda.device_of(out):
        _kernel[(triton.cdiv(past + present, config["ROWS"]), batch)](
            out, x_NTYXC, history, gamma_C, past, present, width, width**0.5, **config
        )
    return out
