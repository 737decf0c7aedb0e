"""Inputs of GELU and quantisation: awkward ones for tests, real ones for benchmarks."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from humo_rt.kernels.testing import in_each_dtype

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Branches, tokens of 97 frames with one reference, width of the feed-forward.
WORKLOADS = {
    "humo-1.7b 480x832": (3, 40_560, 8960),
    "humo-17b 480x832": (1, 40_560, 13_824),
    "nano 128x128": (4, 1664, 768),
}

Inputs = tuple[Tensor]


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Inputs:
    """What a first product gives: most values where GELU bends, a few far out on either side."""
    generator = torch.Generator(device).manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator, device=device)
    x[..., ::53] *= 12
    return (x.to(dtype),)


def bytes_moved(x: Tensor) -> int:
    """What has to cross the memory bus: the input once, values of one byte and the scales once."""
    return x.nbytes + x.numel() + x.numel() // x.shape[-1] * 4


def _all_negative(dtype: torch.dtype, device: torch.device) -> Inputs:
    (x,) = make_inputs((5, 96), dtype, device)
    return (-20 - x.abs(),)  # GELU is 0, or next to it


def _transposed(dtype: torch.dtype, device: torch.device) -> Inputs:
    (x,) = make_inputs((3, 64, 48), dtype, device)
    return (x.transpose(1, 2),)


SHAPES = [(3, 1300), (64,), (3, 63, 768), (2, 100, 63), (5, 1000), (3, 8960), (2, 13_824)]
SPECIAL = {"all negative": _all_negative, "transposed": _transposed}
CASES = in_each_dtype({str(shape): partial(make_inputs, shape) for shape in SHAPES} | SPECIAL, DTYPES)
