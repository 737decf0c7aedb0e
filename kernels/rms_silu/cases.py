"""Inputs of RMSNorm and SiLU: awkward ones for tests, those of Wan's decoder for benchmarks."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from humo_rt.kernels.testing import in_each_dtype

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# Videos, frames, rows and columns with their border, channels: pieces of 480x832 at the three large resolutions.
WORKLOADS = {
    "480x832 96 channels": (1, 8, 482, 834, 96),
    "240x416 192 channels": (1, 8, 242, 418, 192),
    "120x208 384 channels": (1, 4, 122, 210, 384),
}

Inputs = tuple[Tensor, Tensor, Tensor | None]


def make_inputs(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: torch.device, *, history: int = 2
) -> Inputs:
    """Activations with one position of zeros, as a border has, and gains around one."""
    generator = torch.Generator(device).manual_seed(sum(shape))
    frames = torch.randn((shape[0], history + shape[1], *shape[2:]), generator=generator, device=device)
    frames = (frames * 3 + 0.5).to(dtype)
    gamma_C = (1 + 0.2 * torch.randn(shape[-1], generator=generator, device=device)).to(dtype)
    frames[:, -1, 0, 0] = 0
    return frames[:, history:].contiguous(), gamma_C, frames[:, :history].contiguous() if history else None


def bytes_moved(x_NTYXC: Tensor, gamma_C: Tensor, history_NPYXC: Tensor | None) -> int:
    """What has to cross the memory bus: x and the history in, both out."""
    return 2 * (x_NTYXC.nbytes + (0 if history_NPYXC is None else history_NPYXC.nbytes)) + gamma_C.nbytes


def _strided(dtype: torch.dtype, device: torch.device) -> Inputs:
    """Channels first in memory, and the history a view of the piece before."""
    x_NTYXC, gamma_C, _ = make_inputs((2, 3, 4, 5, 48), dtype, device)
    return x_NTYXC.transpose(1, 4).contiguous().transpose(1, 4), gamma_C, x_NTYXC[:, -2:]


# The shape of a piece and the frames remembered of the one before.
SHAPES = {
    (1, 1, 1, 1, 64): 2,
    (3, 2, 7, 9, 63): 1,
    (1, 4, 5, 11, 96): 2,
    (2, 1, 3, 3, 1000): 0,
    (1, 3, 6, 4, 384): 2,
}
PLAIN = {
    f"{shape} history {history}": partial(make_inputs, shape, history=history) for shape, history in SHAPES.items()
}
CASES = in_each_dtype(PLAIN | {"strided": _strided}, DTYPES)
