"""Inputs of guidance and sampler update: awkward ones for tests, real ones for benchmarks."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from humo_rt.kernels.testing import in_each_dtype

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Latents of 97 frames and one reference: HuMo-1.7B with four branches, HuMo-17B with three, nano with four.
WORKLOADS = {
    "humo-1.7b 480x832": (4, 16, 26, 60, 104),
    "humo-17b 720x1280": (3, 16, 26, 90, 160),
    "nano 128x128": (4, 16, 26, 16, 16),
}

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Inputs:
    """Contiguous branches whose weights sum to one, float32 latents, and any fifteen coefficients."""
    generator = torch.Generator(device).manual_seed(sum(shape))
    velocity_BX = torch.randn(shape, generator=generator, device=device).to(dtype)
    weights_B = 3 * torch.randn(shape[0], generator=generator, device=device)
    weights_B = weights_B - (weights_B.sum() - 1) / shape[0]
    latents = [torch.randn(shape[1:], generator=generator, device=device) for _ in range(4)]
    coefficients_35 = torch.randn(3, 5, generator=generator, device=device)
    return velocity_BX, weights_B, *latents, coefficients_35


def bytes_moved(velocity_BX: Tensor, weights_B: Tensor, *rest: Tensor) -> int:
    """What has to cross the memory bus: every input once, the three float32 results once."""
    return velocity_BX.nbytes + weights_B.nbytes + sum(x.nbytes for x in rest) + 3 * rest[0].nbytes


def _strided(dtype: torch.dtype, device: torch.device) -> Inputs:
    velocity_BX, weights_B, *latents, coefficients_35 = make_inputs((3, 4, 7, 10), dtype, device)
    return velocity_BX[:, :, :5], weights_B, *(x[:, :5] for x in latents), coefficients_35


def _transposed(dtype: torch.dtype, device: torch.device) -> Inputs:
    velocity_BX, weights_B, *latents, coefficients_35 = make_inputs((3, 7, 10), dtype, device)
    return velocity_BX.transpose(1, 2), weights_B, *(x.T for x in latents), coefficients_35.T.contiguous().T


def _misaligned(dtype: torch.dtype, device: torch.device) -> Inputs:
    velocity_BX, weights_B, *latents, coefficients_35 = make_inputs((1, 3 * 64 + 1), dtype, device)
    shifted = (x[1:65] for x in latents)
    return velocity_BX[0, 1:].view(3, 64), weights_B.repeat(3), *shifted, coefficients_35


SHAPES = [(1, 1), (3, 63), (4, 1000), (8, 4096), (12, 24), (3, 2, 3, 8)]
LAYOUTS = {"strided": _strided, "transposed": _transposed, "misaligned": _misaligned}
CASES = in_each_dtype({str(shape): partial(make_inputs, shape) for shape in SHAPES} | LAYOUTS, DTYPES)
