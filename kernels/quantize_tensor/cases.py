"""Inputs of quantisation with one scale: awkward ones for tests, real ones for benchmarks."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from humo_rt.kernels.testing import in_each_dtype

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Branches, tokens of 97 frames with one reference, width: the values of self-attention.
WORKLOADS = {
    "humo-1.7b 480x832": (3, 40_560, 1536),
    "humo-17b 720x1280": (1, 93_600, 5120),
    "nano 128x128": (4, 1664, 256),
}

Inputs = tuple[Tensor, bool, int]  # the values, whether less their mean, and rows of zeros after them


def make_inputs(
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    device: torch.device,
    *,
    centred: bool = True,
    padding: int = 0,
) -> Inputs:
    """Values as the last third of one product with queries and keys, with a part in common."""
    generator = torch.Generator(device).manual_seed(sum(shape))
    batch, length, width = shape
    qkv = torch.randn(batch, length, 3 * width, generator=generator, device=device) * 2
    qkv += torch.randn(batch, 1, 3 * width, generator=generator, device=device)
    return qkv.to(dtype)[..., 2 * width :], centred, padding


def bytes_moved(x_BLD: Tensor, *options: object) -> int:
    """What has to cross the memory bus: the input twice, values of one byte once; a centre is nothing beside them."""
    return 2 * x_BLD.numel() * x_BLD.element_size() + x_BLD.numel()


def _zeros(dtype: torch.dtype, device: torch.device) -> Inputs:
    return torch.zeros(2, 3, 32, dtype=dtype, device=device), True, 0


def _largest_last(dtype: torch.dtype, device: torch.device) -> Inputs:
    x_BLD, *options = make_inputs((2, 77, 96), dtype, device)
    x_BLD[-1, -1, -1] = -30
    return x_BLD, *options


def _strided(dtype: torch.dtype, device: torch.device) -> Inputs:
    x_BLD, *options = make_inputs((3, 40, 256), dtype, device)
    return x_BLD[:, 1::3, 4:], *options


def _transposed(dtype: torch.dtype, device: torch.device) -> Inputs:
    x_BLD, *options = make_inputs((3, 64, 48), dtype, device)
    return x_BLD.transpose(1, 2), *options


SHAPES = [(1, 1, 2), (3, 21, 256), (2, 5, 300), (8, 70, 63), (1, 9, 1536), (1, 3, 2560)]
SPECIAL = {"zeros": _zeros, "largest last": _largest_last, "strided": _strided, "transposed": _transposed}
PLAIN = {f"{shape}, no centre": partial(make_inputs, shape, centred=False) for shape in SHAPES[1:4]}
PADDED = {
    f"{shape}, {rows} rows of zeros": partial(make_inputs, shape, padding=rows) for shape, rows in zip(SHAPES, (1, 193))
}
MAKERS = {str(shape): partial(make_inputs, shape) for shape in SHAPES} | PLAIN | PADDED | SPECIAL
CASES = in_each_dtype(MAKERS, DTYPES)
