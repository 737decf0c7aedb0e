"""Merging two results of attention in Triton: some heads of some tokens for each program, moved once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 4096  # of one program


@triton.jit
def _kernel(
    out_ptr, first_ptr, first_lse_ptr, second_ptr, second_lse_ptr,
    length, heads, first_batch, first_lse_batch,
    K: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # a token's heads lie one after another
    channels = tl.arange(0, BLOCK_K)[None, :]
    there = rows < length * heads
    inside = there[:, None] & (channels < K)
    at = rows[:, None] * K + channels
    at_lse = rows % heads * length + rows // heads
    second_row = batch * length * heads
    first = tl.load(first_ptr + batch * first_batch + at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(second_ptr + second_row * K + at, mask=inside, other=0.0).to(tl.float32)
    first_lse = tl.load(first_lse_ptr + batch * first_lse_batch + at_lse, mask=there, other=0.0)
    second_lse = tl.load(second_lse_ptr + second_row + at_lse, mask=there, other=0.0)
    merged = first + tl.sigmoid(second_lse - first_lse)[:, None] * (second - first)
    tl.store(out_ptr + second_row * K + at, merged.to(out_ptr.dtype.element_ty), mask=inside)


def run(first_BLHK: Tensor, first_lse_BHL: Tensor, second_BLHK: Tensor, second_lse_BHL: Tensor) -> Tensor:
    """The op of this folder; inputs as checked by its wrapper."""
    given = (first_BLHK, first_lse_BHL, second_BLHK, second_lse_BHL)
    first, first_lse, second, second_lse = (x.contiguous() for x in given)
    batch, length, heads, head_dim = second.shape
    out_BLHK = torch.empty(second.shape, dtype=second.dtype, device=second.device)
    block = triton.next_power_of_2(head_dim)
    rows = max(1, ELEMENTS // block)
    shared = len(first) == 1  # by every sample
    with torch.cuda.device_of(out_BLHK):
        _kernel[(triton.cdiv(length * heads, rows), batch)](
            out_BLHK, first, first_lse, second, second_lse,
            length, heads, 0 if shared else first.stride(0), 0 if shared else first_lse.stride(0),
            K=head_dim, ROWS=rows, BLOCK_K=block,
        )  # fmt: skip
    return out_BLHK
