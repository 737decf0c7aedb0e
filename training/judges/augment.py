"""Degradations that teach a judge to read blurred, recoloured and compressed frames as well as clean renders.

Reconstructions and generated frames are softer and noisier than the renders a judge is trained on; without these it
would measure the decoder's blur instead of the mouth. Random numbers come from the caller's generator.

Shape legend: N images, C channels, H height, W width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8


def degrade(images_NCHW: Tensor, generator: torch.Generator, *, strength: float = 1.0) -> Tensor:
    """Degrade float images in [0, 1]; each image gets its own draw of every effect, and about a quarter stays clean.

    ``strength`` scales every effect; 0 returns the images unchanged. Height and width are multiples of 8.
    """
    amount = _uniform(images_NCHW, generator) * (_uniform(images_NCHW, generator) > 0.25) * strength
    x = jitter_colour(images_NCHW, generator, amount)
    x = smooth(x, _uniform(x, generator) * amount)
    x = quantise_blocks(x, _uniform(x, generator) * amount * 0.3)
    x = x + torch.randn(x.shape, generator=generator, device=x.device) * (_uniform(x, generator) * amount * 0.05)
    return x.clamp(0, 1)


def jitter_colour(x_NCHW: Tensor, generator: torch.Generator, amount_N111: Tensor) -> Tensor:
    """Brightness, contrast, saturation and a slight tint, each up to 15 % at amount 1."""
    brightness, contrast, saturation = ((_uniform(x_NCHW, generator) - 0.5) * 0.3 * amount_N111 for _ in range(3))
    tint = (torch.rand(len(x_NCHW), 3, 1, 1, generator=generator, device=x_NCHW.device) - 0.5) * 0.1 * amount_N111
    grey = x_NCHW.mean(1, keepdim=True)
    x = grey + (x_NCHW - grey) * (1 + saturation)
    mean = x.mean((1, 2, 3), keepdim=True)
    return mean + (x - mean) * (1 + contrast) + brightness + tint


def smooth(x_NCHW: Tensor, amount_N111: Tensor) -> Tensor:
    """Mix each image with its half-size and quarter-size copies: the loss of detail of a small autoencoder."""
    height, width = x_NCHW.shape[-2:]
    half = F.avg_pool2d(x_NCHW, 2)
    quarter = F.avg_pool2d(half, 2)
    half, quarter = (F.interpolate(y, (height, width), mode="bilinear", align_corners=False) for y in (half, quarter))
    towards_half = (amount_N111 * 1.6).clamp(max=1)
    towards_quarter = (amount_N111 * 1.6 - 1).clamp(min=0)
    return x_NCHW + towards_half * (half - x_NCHW) + towards_quarter * (quarter - half)


def quantise_blocks(x_NCHW: Tensor, step_N111: Tensor) -> Tensor:
    """Round the cosine coefficients of 8x8 blocks to multiples of ``step`` (0 = leave), coarser at high frequency."""
    n, c, height, width = x_NCHW.shape
    basis = _cosine_basis(x_NCHW.device, x_NCHW.dtype)
    blocks = x_NCHW.reshape(n, c, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    coefficients = torch.einsum("ui,vj,nchiwj->nchuwv", basis, basis, blocks)
    frequency = torch.arange(BLOCK, device=x_NCHW.device, dtype=x_NCHW.dtype) / (BLOCK - 1)
    weight = 0.1 + frequency[:, None, None] + frequency  # (u, 1, v)
    asked = step_N111[..., None, None]
    step = asked.clamp(min=1e-4) * weight
    rounded = torch.where(asked > 0, torch.round(coefficients / step) * step, coefficients)
    restored = torch.einsum("ui,vj,nchuwv->nchiwj", basis, basis, rounded)
    return restored.reshape(n, c, height, width)


def _uniform(x_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(len(x_NCHW), 1, 1, 1, generator=generator, device=x_NCHW.device)


def _cosine_basis(device: torch.device, dtype: torch.dtype) -> Tensor:
    position = torch.arange(BLOCK, device=device, dtype=dtype)
    basis = torch.cos(math.pi / BLOCK * (position + 0.5) * position[:, None]) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis
