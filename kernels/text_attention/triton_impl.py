"""Text attention in Triton: one pass that takes the norm of each query, one that attends head by head.

The norm spans all heads, so it has to be known before the first of them attends: 4 bytes a token between the passes,
against a copy of the normalised queries.

The second pass is one of two kernels. With few keys a program holds all those of a head, and many tokens pass by them;
with more, or with too few tokens for that, a program holds some tokens and goes through the keys in tiles.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from humo_rt.kernels.text_attention import FEWEST_QUERIES

LOG2_E = tl.constexpr(1.4426950408889634)
# The interpreter multiplies the bit patterns of bfloat16 as integers: it gets the same values as float32.
WIDEN = tl.constexpr(triton.knobs.runtime.interpret)
# Of the kernel that holds all keys: queries of a tile, and tiles that a program goes through.
TILE, TILES = 64, 8


@triton.jit
def _inverse_rms(out_ptr, q_ptr, length, width, q_b, q_l, eps, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    b = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    inside = (rows < length)[:, None] & (columns < width)[None, :]
    x = tl.load(q_ptr + b * q_b + rows[:, None] * q_l + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + b * length + rows, tl.rsqrt(tl.sum(x * x, axis=1) / width + eps), mask=rows < length)


@triton.jit
def _matmul(a, b):
    """Product in float32; float32 inputs are not rounded to tf32."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _attention(
    out_ptr, q_ptr, scale_ptr, weight_ptr, k_ptr, v_ptr, bias_ptr,
    length, heads, keys, softmax_scale,
    q_b, q_l,
    k_b, k_h, k_s,
    v_b, v_h, v_s,
    K: tl.constexpr, BIASED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # Heads first: the programs that run at one time share the rows of a few tokens and the keys of every head.
    head = (tl.program_id(0) % heads).to(tl.int64)
    rows = (tl.program_id(0) // heads).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    b = tl.program_id(1).to(tl.int64)
    channels = tl.arange(0, BLOCK_K)
    inside = (rows < length)[:, None] & (channels < K)[None, :]

    x = tl.load(q_ptr + b * q_b + rows[:, None] * q_l + head * K + channels[None, :], mask=inside, other=0.0)
    scale = tl.load(scale_ptr + b * length + rows, mask=rows < length, other=0.0)
    weight = tl.load(weight_ptr + head * K + channels, mask=channels < K, other=0.0).to(tl.float32)
    q = (x.to(tl.float32) * scale[:, None] * weight[None, :]).to(x.dtype)  # rounded as the model rounds them

    k_ptr += b * k_b + head * k_h
    v_ptr += b * v_b + head * v_h
    highest = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    attended = tl.zeros((BLOCK_M, BLOCK_K), dtype=tl.float32)
    for start in range(0, keys, BLOCK_S):
        at = start + tl.arange(0, BLOCK_S)
        there = (at < keys)[:, None] & (channels < K)[None, :]
        k = tl.load(k_ptr + at[:, None] * k_s + channels[None, :], mask=there, other=0.0)
        logits = _matmul(q, tl.trans(k)) * (softmax_scale * LOG2_E)
        if BIASED:
            bias = tl.load(bias_ptr + b * keys + at, mask=at < keys, other=float("-inf"))
            logits += (bias * LOG2_E)[None, :]
        else:
            logits = tl.where((at < keys)[None, :], logits, float("-inf"))
        raised = tl.maximum(highest, tl.max(logits, axis=1))
        floor = tl.where(raised == float("-inf"), 0.0, raised)  # no key counts yet: keeps the differences from NaN
        p = tl.exp2(logits - floor[:, None])
        rescale = tl.exp2(highest - floor)
        total = total * rescale + tl.sum(p, axis=1)
        v = tl.load(v_ptr + at[:, None] * v_s + channels[None, :], mask=there, other=0.0)
        attended = attended * rescale[:, None] + _matmul(p.to(v.dtype), v)
        highest = raised
    attended = attended / total[:, None]
    out = out_ptr + (b * length + rows)[:, None] * (heads * K) + head * K + channels[None, :]
    tl.store(out, attended.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _attention_of_few(
    out_ptr, q_ptr, scale_ptr, weight_ptr, k_ptr, v_ptr, bias_ptr,
    length, heads, keys, softmax_scale,
    q_b, q_l,
    k_b, k_h, k_s,
    v_b, v_h, v_s,
    K: tl.constexpr, BIASED: tl.constexpr, TILES: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    head = (tl.program_id(0) % heads).to(tl.int64)
    first = (tl.program_id(0) // heads).to(tl.int64) * (TILES * BLOCK_M)
    b = tl.program_id(1).to(tl.int64)
    channels, at = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_S)
    there = (at < keys)[:, None] & (channels < K)[None, :]
    k_ptr += b * k_b + head * k_h
    v_ptr += b * v_b + head * v_h
    k = tl.load(k_ptr + at[:, None] * k_s + channels[None, :], mask=there, other=0.0)
    v = tl.load(v_ptr + at[:, None] * v_s + channels[None, :], mask=there, other=0.0)
    # The norm's weight is multiplied into the keys, once, and the rest of the norm into the logits.
    weight = tl.load(weight_ptr + head * K + channels, mask=channels < K, other=0.0).to(tl.float32)
    k = (k.to(tl.float32) * weight[None, :]).to(k.dtype)
    if BIASED:
        bias = tl.load(bias_ptr + b * keys + at, mask=at < keys, other=float("-inf")) * LOG2_E
    else:
        bias = tl.where(at < keys, 0.0, float("-inf"))
    for tile in range(TILES):
        rows = first + tile * BLOCK_M + tl.arange(0, BLOCK_M)
        inside = (rows < length)[:, None] & (channels < K)[None, :]
        q = tl.load(q_ptr + b * q_b + rows[:, None] * q_l + head * K + channels[None, :], mask=inside, other=0.0)
        scale = tl.load(scale_ptr + b * length + rows, mask=rows < length, other=0.0)
        logits = _matmul(q, tl.trans(k)) * (scale * (softmax_scale * LOG2_E))[:, None] + bias[None, :]
        p = tl.exp2(logits - tl.max(logits, axis=1)[:, None])
        attended = _matmul(p.to(v.dtype), v) / tl.sum(p, axis=1)[:, None]
        out = out_ptr + (b * length + rows)[:, None] * (heads * K) + head * K + channels[None, :]
        tl.store(out, attended.to(out_ptr.dtype.element_ty), mask=inside)


def blocks(length: int, keys: int, head_dim: int, itemsize: int) -> dict[str, int]:
    """Sizes of the tiles. Wide values take smaller ones: queries, keys and values share 96 KiB of shared memory."""
    narrow = itemsize <= 2 and head_dim <= 128
    return {
        "BLOCK_M": max(16, min(128 if narrow else 32, triton.next_power_of_2(length))),
        "BLOCK_S": max(16, min(64 if narrow else 32, triton.next_power_of_2(keys))),
        "BLOCK_K": max(16, triton.next_power_of_2(head_dim)),
        "num_warps": 8 if narrow and length > 64 else 4,
        "num_stages": 2,
    }


def few_blocks(rows: int, keys: int, head_dim: int, itemsize: int) -> dict[str, int] | None:
    """Sizes for the kernel that holds all keys, or None where the other one runs; ``rows`` as ``FEWEST_QUERIES``."""
    if itemsize > 2 or head_dim > 128 or keys > 128 or rows < FEWEST_QUERIES:
        return None
    return {
        "TILES": TILES,
        "BLOCK_M": TILE,
        "BLOCK_S": max(16, triton.next_power_of_2(keys)),
        "BLOCK_K": max(16, triton.next_power_of_2(head_dim)),
        "num_warps": 4,
        "num_stages": 1,
    }


def norm_blocks(width: int) -> dict[str, int]:
    """Rows of one program of the first pass: 4096 elements, 16 bytes a thread and load."""
    block = triton.next_power_of_2(width)
    rows = max(1, 4096 // block)
    return {"ROWS": rows, "BLOCK": block, "num_warps": max(1, min(16, rows * block // 1024))}


def run(
    q_BLD: Tensor,
    norm_weight_D: Tensor,
    k_BHSK: Tensor,
    v_BHSK: Tensor,
    bias_BS: Tensor | None,
    eps: float,
) -> Tensor:
    """The op of this folder; inputs as checked by its wrapper."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q_BLD, k_BHSK, v_BHSK))
    batch, length, width = q.shape
    heads, keys, head_dim = k.shape[1:]
    out_BLD = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    scale_BL = torch.empty((batch, length), dtype=torch.float32, device=q.device)
    bias = scale_BL if bias_BS is None else bias_BS.contiguous()  # without a bias its address is never read
    norm = norm_blocks(width)
    attend, tiles = _attention_of_few, few_blocks(batch * heads * length, keys, head_dim, q.element_size())
    if tiles is None:
        attend, tiles = _attention, blocks(length, keys, head_dim, q.element_size())
    rows = tiles["BLOCK_M"] * tiles.get("TILES", 1)
    with torch.cuda.device_of(out_BLD):
        _inverse_rms[(triton.cdiv(length, norm["ROWS"]), batch)](
            scale_BL, q, length, width, *q.stride()[:2], eps, **norm
        )
        attend[(heads * triton.cdiv(length, rows), batch)](
            out_BLD, q, scale_BL, norm_weight_D.contiguous(), k, v, bias,
            length, heads, keys, head_dim**-0.5,
            *q.stride()[:2], *k.stride()[:3], *v.stride()[:3],
            K=head_dim, BIASED=bias_BS is not None, **tiles,
        )  # fmt: skip
    return out_BLD
