"""Inputs of the guidance sum: awkward ones for tests, real ones for benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels.testing import Case

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Latents of 97 frames: HuMo-1.7B at 480x832 with four branches, HuMo-17B at 720x1280 with three, nano with four.
WORKLOADS = {
    "humo-1.7b 480x832": (4, 16, 25, 60, 104),
    "humo-17b 720x1280": (3, 16, 25, 90, 160),
    "nano 128x128": (4, 16, 25, 16, 16),
}


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Contiguous velocities and weights that sum to one, the same values every time."""
    generator = torch.Generator().manual_seed(sum(shape))
    velocity_BX = torch.randn(shape, generator=generator).to(device, dtype)
    weights_B = 3 * torch.randn(shape[0], generator=generator)
    weights_B = weights_B - (weights_B.sum() - 1) / shape[0]
    return velocity_BX, weights_B.to(device)


def bytes_moved(velocity_BX: Tensor, weights_B: Tensor) -> int:
    """What has to cross the memory bus: every input once, the float32 result once."""
    return velocity_BX.nbytes + weights_B.nbytes + 4 * velocity_BX[0].numel()


def _strided(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    velocity_BX, weights_B = make_inputs((3, 4, 7, 10), dtype, device)
    return velocity_BX[:, :, :5], weights_B


def _misaligned(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    velocity_BX, weights_B = make_inputs((1, 3 * 64 + 1), dtype, device)
    return velocity_BX[0, 1:].view(3, 64), weights_B.repeat(3)


def _cases(dtype: torch.dtype) -> list[Case]:
    shapes = [(1, 1), (3, 63), (4, 1000), (5, 4096), (12, 24), (3, 2, 3, 8)]
    suffix = str(dtype).removeprefix("torch.")
    plain = [
        Case(name=f"{shape} {suffix}", make=lambda device, shape=shape: make_inputs(shape, dtype, device))
        for shape in shapes
    ]
    return [
        *plain,
        Case(name=f"strided {suffix}", make=lambda device: _strided(dtype, device)),
        Case(name=f"misaligned {suffix}", make=lambda device: _misaligned(dtype, device)),
    ]


CASES = [case for dtype in DTYPES for case in _cases(dtype)]
