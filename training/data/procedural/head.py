"""The head: ears, skin with soft light, the jaw that follows the mouth, beard and moustache."""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.procedural.camera import View
from training.data.procedural.scene import Frame
from training.data.procedural.shapes import darken, fill, paint, soft

JAW_DROP = 0.13  # how far the chin sinks at full opening, head units


def outline(frame: Frame, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Implicit outline of the face with ``u`` and ``v``, its coordinates with the outline at about 1."""
    below = (y + 0.1) > 0
    v = torch.where(below, (y + 0.1) / (1.1 + JAW_DROP * frame.mouth_open), (y + 0.1) / 0.9)
    down = v.clamp(0.0, 1.0)
    u = x / (frame.head_width * (1.0 - frame.jaw_taper * down))
    square = frame.jaw_square * down
    radius = (u * u + v * v - square * (u * v).square()).clamp_min(1e-6).sqrt()
    # The squircle's formula opens up again outside of its corner; there the plain ellipse decides.
    return torch.maximum(radius - 1.0, torch.maximum(u.abs(), v.abs()) - 1.0), u, v


def ears(image: Tensor, frame: Frame, view: View) -> None:
    """Paint both ears, in place; the far one hides behind the head, long hair hides both."""
    x, y = view.at_depth(-0.35)
    width, height = frame.ear_size * 0.75, frame.ear_size * 1.25
    field = (((x.abs() - frame.head_width - 0.02) / width).square() + ((y - 0.02) / height).square()).sqrt() - 1.0
    coverage = fill(field) * frame.ears
    paint(image, coverage, frame.skin * 0.92)
    darken(image, coverage * soft((field + 0.9).clamp_min(0.0).square(), 0.45), 0.22)


def skin(image: Tensor, frame: Frame, view: View) -> Tensor:
    """Paint the face without its features, in place; returns its coverage (N, H, W)."""
    field, u, v = outline(frame, view.x, view.y)
    coverage = fill(field)
    light = 1.03 - 0.08 * (u + frame.yaw * 0.6) - 0.05 * v - 0.20 * (u * u + v * v).clamp(0, 1.2).square()
    paint(image, coverage, frame.skin * light.unsqueeze(1))
    x, y = view.at_depth(0.7)
    cheeks = soft((x.abs() - 0.42).square() + (y - 0.22).square(), 0.17)
    rosy = frame.skin * frame.skin.new_tensor((1.0, 0.72, 0.70)).view(1, 3, 1, 1)
    paint(image, coverage * cheeks * frame.blush * 0.6, rosy)
    forehead = soft((x + 0.10).square() + (y + 0.48).square() * 1.6, 0.26)
    darken(image, coverage * forehead, -0.07)
    sockets = soft((x.abs() - frame.eye_spacing).square() + (y - frame.eye_y).square() * 1.5, 0.20)
    darken(image, coverage * sockets, 0.07)
    _age(image, frame, coverage, x, y)
    return coverage


def _age(image: Tensor, frame: Frame, coverage: Tensor, x: Tensor, y: Tensor) -> None:
    """Folds beside the mouth and lines on the forehead of some, freckles of others."""
    side = x.abs()
    fold = soft((side - 0.20 - 0.45 * (y - 0.22)).square(), 0.022) * soft((y - 0.34).square(), 0.12)
    lines = soft((torch.remainder(y * 9.0 + 0.6 * x * x, 1.0) - 0.5).square(), 0.16) * soft(
        (x * 0.5).square() + (y + 0.50).square(), 0.13
    )
    darken(image, coverage * (fold + 0.5 * lines) * frame.wrinkles, 0.28)
    speck = torch.sin(x * 61.0 + 3.0 * torch.sin(y * 23.0)) * torch.sin(y * 53.0 + 2.0 * torch.sin(x * 31.0))
    zone = soft((side - 0.30).square() + (y - 0.15).square() * 2.0, 0.20)
    darken(image, coverage * zone * (speck > 0.62) * frame.freckles, 0.22)


def beard(image: Tensor, frame: Frame, view: View) -> None:
    """Paint beard and moustache below the lips' layer, in place."""
    x, y = view.at_depth(0.75)
    field, _, _ = outline(frame, view.x, view.y - 0.05)
    side = x.abs()
    cheek_line = frame.mouth_y - 0.12 - 0.9 * (side - 0.30).clamp_min(0.0).pow(1.5)
    region = torch.maximum(field, cheek_line - y)
    texture = 0.93 + 0.07 * torch.sin(x * 34.0 + 1.5 * torch.sin(y * 11.0))
    colour = frame.hair * 0.86 * texture.unsqueeze(1)
    paint(image, fill(region) * frame.full_beard, colour)
    # The moustache rides on the upper lip.
    lip_top = frame.mouth_y - frame.lip_upper - 0.25 * frame.mouth_height * frame.mouth_open
    droop = 0.045 * (side / 0.30).square()
    centre, thick = lip_top - 0.05 + droop, 0.07 * (1.0 - (side / 0.36).square()).clamp_min(0.0)
    band = (y - centre).abs() - thick
    paint(image, fill(torch.maximum(band, side - 0.35)) * frame.moustache, colour)
