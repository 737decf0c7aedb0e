"""Inputs of the causal convolution: awkward ones for tests, those of Wan's decoder for benchmarks."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from humo_rt.kernels.testing import Case

DTYPES = (torch.float16, torch.bfloat16)  # what every backend takes


class Shape(NamedTuple):
    """Sizes of one convolution; rows and columns are pixels without the border."""

    frames: int
    rows: int
    columns: int
    inputs: int
    outputs: int
    kernel: tuple[int, int, int] = (3, 3, 3)
    residual: bool = True
    batch: int = 1


# A piece of four latent frames of a 480x832 video: every distinct convolution of the decoder's large resolutions.
WORKLOADS = {
    "480x832 96-96": Shape(16, 480, 832, 96, 96),
    "240x416 192-192": Shape(16, 240, 416, 192, 192),
    "120x208 384-384": Shape(8, 120, 208, 384, 384),
    "60x104 384-384": Shape(4, 60, 104, 384, 384),
    "480x832 192-96 2d": Shape(16, 480, 832, 192, 96, (1, 3, 3), residual=False),
    "240x416 384-192 2d": Shape(16, 240, 416, 384, 192, (1, 3, 3), residual=False),
}

Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None]


def make_inputs(shape: Shape, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Activations inside their border of zeros, and weights that keep the variance."""
    generator = torch.Generator(device).manual_seed(sum(shape[:5]))

    def noise(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    def bordered(frames: int, channels: int) -> Tensor:
        inner = noise(shape.batch, frames, shape.rows, shape.columns, channels).to(dtype)
        return F.pad(inner, (0, 0, 1, 1, 1, 1))

    taps, height, width = shape.kernel
    scale = (taps * height * width * shape.inputs) ** -0.5
    x_NTYXC = bordered(shape.frames + taps - 1, shape.inputs)
    weight_OIJKC = (noise(shape.outputs, taps, height, width, shape.inputs) * scale).to(dtype)
    residual = bordered(shape.frames, shape.outputs) if shape.residual else None
    return x_NTYXC, weight_OIJKC, noise(shape.outputs).to(dtype), residual


def operations(shape: Shape) -> int:
    """Multiplications and additions of the pixels, the border left out."""
    taps, height, width = shape.kernel
    pixels = shape.batch * shape.frames * shape.rows * shape.columns
    return 2 * pixels * shape.inputs * shape.outputs * taps * height * width


def bytes_moved(x_NTYXC: Tensor, weight_OIJKC: Tensor, bias_O: Tensor, residual_NTYXO: Tensor | None) -> int:
    """What has to cross the memory bus: every input once, the result once."""
    outputs, taps = weight_OIJKC.shape[:2]
    positions = x_NTYXC[:, taps - 1 :, ..., 0].numel()
    results = positions * outputs * x_NTYXC.element_size() * (1 if residual_NTYXO is None else 2)
    return x_NTYXC.nbytes + weight_OIJKC.nbytes + bias_O.nbytes + results


SHAPES = (
    Shape(1, 1, 1, 16, 16),
    Shape(3, 7, 5, 16, 48, residual=False),
    Shape(2, 9, 13, 96, 96),
    Shape(1, 5, 31, 192, 32, batch=3),
    Shape(2, 6, 6, 64, 192),
    Shape(2, 11, 7, 32, 96, (1, 3, 3), residual=False),
    Shape(3, 4, 9, 64, 128, (3, 1, 1), residual=False),
    Shape(2, 5, 6, 96, 64, (1, 1, 1)),
)
CASES = [
    Case(
        name=f"{shape.frames}x{shape.rows}x{shape.columns} {shape.inputs}-{shape.outputs} {shape.kernel} {dtype}",
        make=lambda device, shape=shape, dtype=dtype: make_inputs(shape, dtype, device),
    )
    for shape in SHAPES
    for dtype in DTYPES
]
