"""Anti-aliased coverage of implicit shapes, and painting with it.

Knows geometry on a pixel grid only. Images are (N, 3, H, W) in 0..1, coverages and coordinates (N, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor


def fill(field_NHW: Tensor) -> Tensor:
    """Coverage of ``field < 0``, anti-aliased over one pixel.

    The field is divided by the length of its own gradient on the grid, so any implicit function serves, however it
    is scaled; a distance that is not a true one would draw streaks along thin shapes.
    """
    dx = torch.diff(field_NHW, dim=2, prepend=field_NHW[:, :, :1])
    dy = torch.diff(field_NHW, dim=1, prepend=field_NHW[:, :1])
    slope = (dx * dx + dy * dy).sqrt_().clamp_min_(1e-4)
    return (0.5 - field_NHW / slope).clamp_(0.0, 1.0)


def span(value: Tensor, low: Tensor, high: Tensor, pixel: Tensor) -> Tensor:
    """Share of the pixel around ``value`` (one pixel wide) that lies in ``low..high``: exact for thin shapes."""
    half = pixel / 2
    return ((torch.minimum(high, value + half) - torch.maximum(low, value - half)) / pixel).clamp(0.0, 1.0)


def soft(distance: Tensor, radius: Tensor | float) -> Tensor:
    """A round soft spot: 1 at distance 0, a Gaussian of ``radius``; ``distance`` is squared already."""
    return torch.exp(-distance / (radius * radius))


def paint(image_NCHW: Tensor, coverage_NHW: Tensor, colour: Tensor) -> Tensor:
    """Blend ``colour`` (N, 3, 1, 1) or (N, 3, H, W) over the image, in place."""
    return image_NCHW.lerp_(colour.expand_as(image_NCHW), coverage_NHW.unsqueeze(1))


def darken(image_NCHW: Tensor, coverage_NHW: Tensor, amount: float) -> Tensor:
    """Multiply by ``1 - amount * coverage``, in place: a shadow, or a light when ``amount`` is negative."""
    return image_NCHW.mul_((1.0 - amount * coverage_NHW).unsqueeze(1))
