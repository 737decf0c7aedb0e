"""The wall behind the person: a colour and one of six patterns."""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.procedural.camera import View
from training.data.procedural.scene import Frame
from training.data.procedural.shapes import darken, fill, paint


def wall(frame: Frame, view: View) -> Tensor:
    """Paint the background: (N, 3, H, W) in 0..1."""
    x, y, period = view.wall_x, view.wall_y, frame.wall_period
    image = frame.wall.expand(-1, -1, x.shape[1], x.shape[2]).clone()
    cell_x, cell_y = torch.remainder(x / period, 1.0) - 0.5, torch.remainder(y / period, 1.0) - 0.5
    dots = fill((cell_x * cell_x + cell_y * cell_y).sqrt() - 0.24)
    slanted = (x * torch.cos(frame.wall_angle) + y * torch.sin(frame.wall_angle)) / period
    stripes = fill((torch.remainder(slanted, 1.0) - 0.5).abs() - 0.25)
    checks = fill(torch.sin(x * (torch.pi / period)) * torch.sin(y * (torch.pi / period)))
    pattern = frame.wall_dotted * dots + frame.wall_striped * stripes + frame.wall_checked * checks
    paint(image, pattern, frame.wall_accent)
    ramp = ((y + 1.0) / 2.0).clamp(0.0, 1.0)
    darken(image, frame.wall_gradient * ramp, 0.38)
    paint(image, frame.wall_gradient * (1.0 - ramp).square(), frame.wall_accent)
    _window(image, frame, x, y)
    # A soft glow behind the head separates it from the wall.
    return darken(image, (x * x + y * y).clamp_max(2.0) * 0.5, 0.12)


def _window(image: Tensor, frame: Frame, x: Tensor, y: Tensor) -> None:
    """A window with sky beside the head."""
    u, v = x * frame.wall_side - 0.66, y + 0.36
    bars = torch.minimum(u.abs(), v.abs()) - 0.018
    pane = torch.maximum(u.abs() - 0.30, v.abs() - 0.50)
    sky = torch.stack((0.62 + 0.12 * v, 0.83 + 0.06 * v, 0.97 + 0.0 * v), dim=1).clamp_(0, 1)
    paint(image, frame.wall_window * fill(pane - 0.05), torch.ones_like(frame.wall) * 0.97)
    paint(image, frame.wall_window * fill(torch.maximum(pane, -bars)), sky)
