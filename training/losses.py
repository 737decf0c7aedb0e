"""The losses of both stages: flow matching on the video frames, and the mask loss of focus-by-predicting.

Knows tensors only. Reductions are in float32. The path is linear, x = (1 - s) * clean + s * noise, and the network
predicts its derivative, noise - clean.

Shape suffixes: B clips, C latent channels, T latent frames, H W latent cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def draw_sigmas(
    count: int, generator: torch.Generator, *, mean: float = 0.0, std: float = 1.0, shift: float = 1.0
) -> Tensor:
    """Noise levels (count,), float32 in 0..1: logit-normal(mean, std), then moved by ``shift`` towards noise.

    ``shift`` is the sampler's flow shift: s' = shift * s / (1 + (shift - 1) * s).
    """
    s = torch.sigmoid(mean + std * torch.randn(count, generator=generator, device=generator.device))
    return shift * s / (1.0 + (shift - 1.0) * s)


def add_noise(clean_BCTHW: Tensor, noise_BCTHW: Tensor, sigma_B: Tensor) -> Tensor:
    """The point of the path at noise level ``sigma_B``."""
    sigma = sigma_B.view(-1, 1, 1, 1, 1)
    return (1.0 - sigma) * clean_BCTHW + sigma * noise_BCTHW


def velocity_loss(
    velocity_BCTHW: Tensor,
    clean_BCTHW: Tensor,
    noise_BCTHW: Tensor,
    *,
    emphasis_BTHW: Tensor | None = None,
    emphasis: float = 0.0,
) -> Tensor:
    """Mean squared error against noise - clean, per clip: (B,).

    ``velocity_BCTHW`` may have more frames than ``clean_BCTHW``: the trailing reference frames do not count. Cells
    marked in ``emphasis_BTHW`` (0..1) weigh 1 + ``emphasis``; this is an addition of this project, off by default.
    """
    frames = clean_BCTHW.shape[2]
    target = noise_BCTHW.float() - clean_BCTHW.float()
    error = (velocity_BCTHW[:, :, :frames].float() - target).square()
    if emphasis_BTHW is not None and emphasis:
        error = error * (1.0 + emphasis * emphasis_BTHW[:, None].float())
    return error.mean(dim=(1, 2, 3, 4))


def mask_loss(logits_BTHW: Tensor, mask_BTHW: Tensor) -> Tensor:
    """(h * w / sum(M)) * BCE(logits, M) per latent frame, averaged over frames: (B,).

    Small faces weigh more. A latent frame without a face has sum(M) = 0, where the formula has no value: it takes
    weight 1, plain cross-entropy, so that the predictor still learns to answer "no face". Logits may have more frames
    than the mask: the trailing reference frames do not count.
    """
    mask = mask_BTHW.float()
    logits = logits_BTHW[:, : mask.shape[1]].float()
    entropy_BT = F.binary_cross_entropy_with_logits(logits, mask, reduction="none").mean(dim=(2, 3))
    covered_BT = mask.mean(dim=(2, 3))
    weight_BT = torch.where(covered_BT > 0, 1.0 / covered_BT.clamp_min(1e-12), torch.ones_like(covered_BT))
    return (weight_BT * entropy_BT).mean(dim=1)


def mask_iou(logits_BTHW: Tensor, mask_BTHW: Tensor) -> Tensor:
    """Intersection over union of logits > 0 with the mask over whole clips, (B,); 1 where both are empty."""
    mask = mask_BTHW > 0.5
    predicted = logits_BTHW[:, : mask.shape[1]] > 0
    both = (predicted & mask).sum(dim=(1, 2, 3)).float()
    either = (predicted | mask).sum(dim=(1, 2, 3)).float()
    return torch.where(either > 0, both / either.clamp_min(1.0), torch.ones_like(either))
