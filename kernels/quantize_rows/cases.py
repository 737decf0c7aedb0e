"""Inputs of row-wise quantisation: awkward ones for tests, real ones for benchmarks."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from humo_rt.kernels.float8 import FLOAT8
from humo_rt.kernels.testing import in_each_dtype

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Branches, tokens of 97 frames with one reference, width: what attention hands to its output projection.
WORKLOADS = {
    "humo-1.7b 480x832": (3, 40_560, 1536),
    "humo-17b 720x1280": (1, 93_600, 5120),
    "nano 128x128": (4, 1664, 256),
}

Inputs = tuple[Tensor]


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Inputs:
    """Rows of different sizes, each with a few large channels, as activations have them."""
    generator = torch.Generator(device).manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator, device=device)
    sizes = torch.randn(*shape[:-1], 1, generator=generator, device=device).exp()
    x[..., ::37] *= 20
    return ((x * sizes).to(dtype),)


def bytes_moved(x: Tensor) -> int:
    """What has to cross the memory bus: the input once, values of one byte and the scales once."""
    return x.nbytes + x.numel() + x.numel() // x.shape[-1] * 4


def _zeros_and_specks(dtype: torch.dtype, device: torch.device) -> Inputs:
    (x,) = make_inputs((4, 100), dtype, device)
    return (x * torch.tensor([0, 1e-6, 1, 100], device=device)[:, None].to(dtype),)


def _strided(dtype: torch.dtype, device: torch.device) -> Inputs:
    (x,) = make_inputs((3, 40, 256), dtype, device)
    return (x[:, 1::3, 4:],)


def _transposed(dtype: torch.dtype, device: torch.device) -> Inputs:
    (x,) = make_inputs((3, 64, 48), dtype, device)
    return (x.transpose(1, 2),)


def _centred(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What attention in float8 returns: values, their scale, and what was taken off before, in its own dtypes."""
    generator = torch.Generator(device).manual_seed(sum(shape))
    given = torch.randn(shape, generator=generator, device=device) * 100
    centre_B1D = torch.randn(shape[0], 1, shape[2], generator=generator, device=device)
    return given.to(FLOAT8), torch.tensor([0.01], device=device), centre_B1D


SHAPES = [(64,), (1, 2), (3, 21, 256), (2, 100, 63), (5, 1000), (9, 1536), (3, 5120), (2, 2, 3, 32)]
SPECIAL = {"zeros and specks": _zeros_and_specks, "strided": _strided, "transposed": _transposed}
CENTRED = {f"{shape} and a centre": partial(_centred, shape) for shape in [(3, 21, 256), (2, 5, 1000), (1, 9, 1536)]}
CASES = [
    *in_each_dtype({str(shape): partial(make_inputs, shape) for shape in SHAPES} | SPECIAL, DTYPES),
    *in_each_dtype(CENTRED, [FLOAT8]),
]
