"""Neck, shoulders and clothes."""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.procedural.camera import View
from training.data.procedural.scene import Frame
from training.data.procedural.shapes import darken, fill, paint, soft


def clothes(image: Tensor, frame: Frame, view: View) -> None:
    """Paint the garment over the whole width of the shoulders, in place."""
    x, y = view.body_x, view.body_y
    torso = fill(_torso(frame, x, y))
    paint(image, torso, frame.cloth)
    period = frame.cloth_period
    stripes = fill((torch.remainder(y / period, 1.0) - 0.5).abs() - 0.25)
    checks = fill(torch.sin(x * (torch.pi / period)) * torch.sin(y * (torch.pi / period)))
    paint(image, torso * (frame.cloth_striped * stripes + frame.cloth_checked * checks), frame.cloth_accent)
    # Folds at the arms and a shadow that the head throws.
    darken(image, torso * soft((x.abs() - frame.shoulder_width * 0.72).square(), 0.10), 0.16)
    darken(image, torso * soft(x * x * 0.35 + (y - 1.1).square(), 0.3), 0.28)


def neck(image: Tensor, frame: Frame, view: View) -> None:
    """Paint the neck, the skin above the neckline and the collar, in place."""
    # The neck leans with the head at its upper end.
    blend = ((view.body_y - 0.6) / 0.6).clamp(0.0, 1.0)
    x, y = view.x + (view.body_x - view.x) * blend, view.body_y
    flare = ((y - 0.9) / 0.35).clamp(0.0, 1.0)
    column = torch.maximum(x.abs() - frame.neck_width - 0.06 * flare * flare, (y - 0.9).abs() - 0.42)
    depth, opening = frame.neckline_depth, frame.neck_width + 0.1
    round_line = (((view.body_x / opening).square() + ((y - 1.22) / (depth + 0.10)).square()).sqrt() - 1.0) * depth
    v_line = torch.maximum(view.body_x.abs() + (y - 1.22) * (opening / (depth + 0.22)) - opening, 1.1 - y)
    line = round_line + (v_line - round_line) * frame.neckline_v
    torso = _torso(frame, view.body_x, y)
    skin = torch.minimum(torch.maximum(column, y - 1.25), torch.maximum(line, torso))
    hem = fill(torch.maximum(line - 0.05, torso)) * (1 - fill(line))
    paint(image, hem, frame.cloth * 0.78)
    coverage = fill(skin)
    paint(image, coverage, frame.skin * 0.93)
    chin_shadow = soft(x * x * 0.6 + (y - 0.92).square(), 0.30)
    darken(image, coverage * chin_shadow, 0.38)
    _collar(image, frame, view)


def _collar(image: Tensor, frame: Frame, view: View) -> None:
    """Two pointed flaps on some garments."""
    x, y = view.body_x.abs() - frame.neck_width, view.body_y - 1.0
    flap = torch.maximum(torch.maximum(0.07 - 0.30 * y - x, y - 0.46 + 0.42 * x), 0.80 * x - y - 0.02)
    coverage = fill(flap) * frame.collar
    paint(image, coverage, frame.cloth + (1.0 - frame.cloth) * 0.22)
    darken(image, frame.collar * soft((flap + 0.01).square(), 0.020) * coverage, 0.30)


def _torso(frame: Frame, x: Tensor, y: Tensor) -> Tensor:
    """Implicit outline of the shoulders."""
    across = (x / frame.shoulder_width).abs()
    top = 1.19 + frame.shoulder_slope * across * across - 0.16 * soft(x * x, 0.55)
    return torch.maximum(top - y, (across - 1.0) * frame.shoulder_width + 0.35 * (1.9 - y).clamp(0.0, 1.0).square())
