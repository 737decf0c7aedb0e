"""Face masks at the resolution of the latents: what the mask predictor is trained on and compared with.

Knows the strides of the autoencoder. Finds no faces.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.config import SPATIAL_STRIDE, TEMPORAL_STRIDE


def mask_to_latent_grid(mask_FHW: Tensor) -> Tensor:
    """Binary face mask of a video on its latent grid.

    ``mask_FHW``: (..., 4n + 1, H, W) bool or 0/1, H and W multiples of 8; leading dimensions are a batch. A latent cell
    is 1 where at least half of its pixels are face, counted over 8x8 pixels and over the video frames the latent frame
    stands for: frame 0 for the first, frames 4k-3 .. 4k for the k-th. Returns (..., n + 1, H / 8, W / 8) float32.
    """
    frames, height, width = mask_FHW.shape[-3:]
    if frames % TEMPORAL_STRIDE != 1 or height % SPATIAL_STRIDE or width % SPATIAL_STRIDE:
        raise ValueError(
            f"a face mask of {frames} frames, {height}x{width} has no latent grid: use 4n + 1 frames and multiples of 8"
        )
    rows = mask_FHW.float().unflatten(-1, (-1, SPATIAL_STRIDE)).unflatten(-3, (-1, SPATIAL_STRIDE))
    # (..., F, h, 8, w, 8): shares of face pixels are exact in float32, multiples of 1/64 and then of 1/256.
    share = rows.mean(dim=(-3, -1))
    first, rest = share[..., :1, :, :], share[..., 1:, :, :]
    grouped = rest.unflatten(-3, ((frames - 1) // TEMPORAL_STRIDE, TEMPORAL_STRIDE)).mean(dim=-3)
    return (torch.cat([first, grouped], dim=-3) >= 0.5).float()
