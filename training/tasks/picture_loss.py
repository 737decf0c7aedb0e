"""How far a reconstructed video is from the true one, where it matters.

Knows pixels and weights only; everything in float32.

Shape suffixes: B clips, C colours, F frames, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class PictureLossConfig:
    """Weights of the terms, and how much more than the rest of the picture the face and the mouth count.

    The mouth is one percent of the picture, and a viewer looks at nothing else: without its weight, the mean error
    hardly notices whether it opens. ``mouth_margin`` widens it by so many pixels to all sides.
    """

    absolute: float = 1.0
    squared: float = 1.0
    edges: float = 0.5
    motion: float = 0.5
    face: float = 1.0
    mouth: float = 10.0
    mouth_margin: int = 4


def attention(face_BFHW: Tensor, mouth_BFHW: Tensor, config: PictureLossConfig) -> Tensor:
    """Weight of every pixel with mean one in every clip: (B, F, H, W) float32."""
    size = 2 * config.mouth_margin + 1
    near = F.max_pool2d(mouth_BFHW.float(), size, stride=1, padding=config.mouth_margin)
    weight = 1.0 + config.face * face_BFHW.float() + config.mouth * near
    return weight / weight.mean(dim=(1, 2, 3), keepdim=True)


def picture_loss(
    made_BCFHW: Tensor, true_BCFHW: Tensor, weight_BFHW: Tensor | None, config: PictureLossConfig
) -> Tensor:
    """Weighted mean of absolute and squared error, of errors in edges at two scales, and of errors in motion.

    Edges punish blur, which absolute error alone forgives in small features; motion (the difference of neighbouring
    frames) punishes a mouth that moves less than it should. Scalar; videos in [-1, 1].
    """
    error = made_BCFHW.float() - true_BCFHW.float()
    weight = torch.ones_like(error[:, :1]) if weight_BFHW is None else weight_BFHW[:, None]
    loss = config.absolute * (weight * error.abs()).mean() + config.squared * (weight * error.square()).mean()
    if error.shape[2] > 1:
        loss = loss + config.motion * (weight[:, :, 1:] * error.diff(dim=2).abs()).mean()
    coarse = (F.avg_pool3d(x, (1, 2, 2)) for x in (error, weight))
    for e, w in ((error, weight), tuple(coarse)):
        edges = (w[..., 1:] * e.diff(dim=-1).abs()).mean() + (w[..., 1:, :] * e.diff(dim=-2).abs()).mean()
        loss = loss + config.edges / 2 * edges
    return loss


def psnr(made_BCFHW: Tensor, true_BCFHW: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of videos in [-1, 1] in decibels, per clip: (B,)."""
    error = (made_BCFHW.float().clamp(-1, 1) - true_BCFHW.float()).square().mean(dim=(1, 2, 3, 4))
    return 10 * torch.log10(4.0 / error.clamp(min=1e-10))
