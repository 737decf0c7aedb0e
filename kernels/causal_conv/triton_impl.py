"""Causal convolution as one matrix product over all taps, in Triton: tiles of positions by output channels.

With its border in memory a piece of video is a matrix of positions by channels in which every tap is the same matrix a
fixed number of rows further on. So a tap's tile is a plain tile that begins elsewhere; a tensor descriptor fetches it
(TMA where the card has it, with zeros beyond either end). What would wrap around a row of pixels lands in the border.
Channel counts such as 96 and 192 are no powers of two: a tile is a wide and a narrow part side by side, 64 + 32 or
128 + 64, and so is a step of 96 along the input channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime import driver
from triton.tools.tensor_descriptor import TensorDescriptor

# The interpreter multiplies the bit patterns of bfloat16 as integers: it gets the same values as float32.
WIDEN = tl.constexpr(triton.knobs.runtime.interpret)


class Tile(NamedTuple):
    """What one program computes and how: positions, steps in flight, warps."""

    positions: int
    stages: int
    warps: int


TILES = (Tile(256, 3, 8), Tile(128, 3, 4), Tile(128, 2, 4), Tile(64, 2, 4))  # the fastest first
BARRIERS = 1024


@triton.jit
def _add_product(total, x, weights, row, column):
    """One tile of positions times one of weights."""
    w = weights.load([row, column])
    if WIDEN:
        x, w = x.to(tl.float32), w.to(tl.float32)
    return tl.dot(x, w.T, total)


@triton.jit
def _finish(out_desc, residual_desc, bias_ptr, total, row, channel, inside,
            RESIDUAL: tl.constexpr, CHANNELS: tl.constexpr):  # fmt: skip
    """Bias, residual, zeros in the border, and the tile in memory."""
    total += tl.load(bias_ptr + channel + tl.arange(0, CHANNELS)).to(tl.float32)[None, :]
    if RESIDUAL:
        total += residual_desc.load([row, channel]).to(tl.float32)
    out_desc.store([row, channel], tl.where(inside[:, None], total, 0.0).to(out_desc.dtype))


@triton.jit
def _kernel(
    out_wide, out_narrow, residual_wide, residual_narrow, x_wide, x_narrow,
    weight_ww, weight_wn, weight_nw, weight_nn, bias_ptr, rows, columns, outputs,
    KT: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, STEPS: tl.constexpr, RESIDUAL: tl.constexpr,
    POSITIONS: tl.constexpr, O_WIDE: tl.constexpr, O_NARROW: tl.constexpr,
    C_WIDE: tl.constexpr, C_NARROW: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    tiles = outputs // (O_WIDE + O_NARROW)
    channel = tl.program_id(0) % tiles * (O_WIDE + O_NARROW)
    row = tl.program_id(0) // tiles * POSITIONS
    wide = tl.zeros((POSITIONS, O_WIDE), tl.float32)
    if O_NARROW:
        narrow = tl.zeros((POSITIONS, O_NARROW), tl.float32)
    for step in tl.range(0, KT * KH * KW * STEPS, num_stages=STAGES):
        tap = step // STEPS
        c = step % STEPS * C_WIDE
        down = tap // (KH * KW) * rows + tap // KW % KH - KH // 2
        at = row + down * columns + tap % KW - KW // 2
        w = tap * STEPS * (C_WIDE + C_NARROW) + c
        x = x_wide.load([at, c])
        wide = _add_product(wide, x, weight_ww, channel, w)
        if O_NARROW:
            narrow = _add_product(narrow, x, weight_nw, channel + O_WIDE, w)
        if C_NARROW:
            x = x_narrow.load([at, c + C_WIDE])
            wide = _add_product(wide, x, weight_wn, channel, w + C_WIDE)
            if O_NARROW:
                narrow = _add_product(narrow, x, weight_nn, channel + O_WIDE, w + C_WIDE)
    at_x = (row + tl.arange(0, POSITIONS)) % columns
    at_y = (row + tl.arange(0, POSITIONS)) // columns % rows
    inside = (at_x > 0) & (at_x < columns - 1) & (at_y > 0) & (at_y < rows - 1)
    _finish(out_wide, residual_wide, bias_ptr, wide, row, channel, inside, RESIDUAL, O_WIDE)
    if O_NARROW:
        _finish(out_narrow, residual_narrow, bias_ptr, narrow, row, channel + O_WIDE, inside, RESIDUAL, O_NARROW)


def output_parts(outputs: int) -> tuple[int, int]:
    """Wide and narrow part of a tile's output channels: powers of two whose sum divides ``outputs``."""
    choices = ((128, 0), (128, 64), (64, 32), (64, 0), (32, 0), (16, 0))
    return next(parts for parts in choices if outputs % sum(parts) == 0)


def input_parts(inputs: int) -> tuple[int, int]:
    """Wide and narrow part of a step along the input channels: 96 are taken in one step, others in equal ones."""
    return (64, 32) if inputs == 96 else next((wide, 0) for wide in (64, 32, 16) if inputs % wide == 0)


def fitting_tile(inputs: int, outputs: int, itemsize: int, room: int) -> Tile:
    """The first of ``TILES`` whose steps in flight, inputs and weights, fit ``room`` bytes of shared memory."""
    step = itemsize * sum(input_parts(inputs))
    return next(
        (tile for tile in TILES if tile.stages * step * (tile.positions + sum(output_parts(outputs))) <= room),
        TILES[-1],
    )


def shared_memory() -> int:
    """Bytes that one program may have on this card, a little for barriers put aside."""
    if WIDEN:
        return 1 << 30
    target = driver.active
    return target.utils.get_device_properties(target.get_current_device())["max_shared_mem"] - BARRIERS


def run(
    x_NTYXC: Tensor,
    weight_OIJKC: Tensor,
    bias_O: Tensor,
    residual_NTYXO: Tensor | None,
    tile: Tile | None = None,
) -> Tensor:
    """The op of this folder; inputs as checked by its wrapper."""
    batch, frames, rows, columns, inputs = x_NTYXC.shape
    outputs, taps, height, width, _ = weight_OIJKC.shape
    out = x_NTYXC.new_empty((batch, frames - taps + 1, rows, columns, outputs))
    wide, narrow = output_parts(outputs)
    c_wide, c_narrow = input_parts(inputs)
    weight = weight_OIJKC.view(outputs, -1)
    sizes = ((wide, c_wide), (wide, c_narrow), (narrow, c_wide), (narrow, c_narrow))
    weights = [_tiles(weight, o or wide, c or c_wide) for o, c in sizes]  # of an absent part nothing is read
    with torch.cuda.device_of(out):
        tile = tile or fitting_tile(inputs, outputs, x_NTYXC.element_size(), shared_memory())
        for n in range(batch):
            positions = [(x_NTYXC[n], c_wide, c_narrow), (out[n], wide, narrow)]
            positions.append(positions[1] if residual_NTYXO is None else (residual_NTYXO[n], wide, narrow))
            x, y, residual = (
                [_tiles(matrix.view(-1, matrix.shape[-1]), tile.positions, size or first) for size in (first, second)]
                for matrix, first, second in positions
            )
            _kernel[(triton.cdiv(out[0, ..., 0].numel(), tile.positions) * (outputs // (wide + narrow)),)](
                *y, *residual, *x, *weights, bias_O, rows, columns, outputs,
                KT=taps, KH=height, KW=width, STEPS=inputs // (c_wide + c_narrow), RESIDUAL=residual_NTYXO is not None,
                POSITIONS=tile.positions, O_WIDE=wide, O_NARROW=narrow, C_WIDE=c_wide, C_NARROW=c_narrow,
                STAGES=tile.stages, num_warps=tile.warps,
            )  # fmt: skip
    return out


def _tiles(matrix: Tensor, rows: int, columns: int) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(matrix, [rows, columns])
