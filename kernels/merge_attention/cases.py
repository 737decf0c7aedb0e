"""Inputs of merging two results of attention: awkward ones for tests, real ones for benchmarks."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from humo_rt.kernels.testing import in_each_dtype

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Inputs with and without the image, tokens of 97 frames that both have alike, heads, head_dim.
WORKLOADS = {"humo-1.7b 480x832": (2, 39_000, 12, 128)}

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def make_inputs(shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device, first: int = 1) -> Inputs:
    """Results for many keys, ``first`` samples of them, and for a few, whose sums of exponentials are smaller."""
    generator = torch.Generator(device).manual_seed(sum(shape))

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    batch, length, heads, head_dim = shape
    first_BLHK, second_BLHK = (normal(n, length, heads, head_dim).to(dtype) for n in (first, batch))
    return first_BLHK, normal(first, heads, length) + 3, second_BLHK, 2 * normal(batch, heads, length)


def bytes_moved(first_BLHK: Tensor, first_lse_BHL: Tensor, second_BLHK: Tensor, second_lse_BHL: Tensor) -> int:
    """What has to cross the memory bus: every input once, the result once."""
    return first_BLHK.nbytes + first_lse_BHL.nbytes + 2 * second_BLHK.nbytes + second_lse_BHL.nbytes


def _each_its_own(dtype: torch.dtype, device: torch.device) -> Inputs:
    return make_inputs((3, 21, 2, 64), dtype, device, first=3)


def _strided(dtype: torch.dtype, device: torch.device) -> Inputs:
    first, first_lse, second, second_lse = make_inputs((2, 21, 4, 32), dtype, device)
    return first[:, 1::2], first_lse[:, :, 1::2], second[:, ::2][:, :10], second_lse[:, :, ::2][:, :, :10]


def _one_sided(dtype: torch.dtype, device: torch.device) -> Inputs:
    """Sums so far apart that one result does not count."""
    first, first_lse, second, second_lse = make_inputs((2, 9, 2, 16), dtype, device)
    return first, first_lse + 200, second, second_lse * torch.tensor([1.0, 200.0], device=device)[:, None, None]


SHAPES = [(1, 1, 1, 1), (2, 33, 3, 10), (2, 100, 12, 128), (8, 3, 5, 64)]
SPECIAL = {"each its own": _each_its_own, "strided": _strided, "one-sided": _one_sided}
CASES = in_each_dtype({str(shape): partial(make_inputs, shape) for shape in SHAPES} | SPECIAL, DTYPES)
