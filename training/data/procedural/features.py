"""Eyes, brows, nose and glasses."""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.procedural.camera import View
from training.data.procedural.scene import Frame
from training.data.procedural.shapes import darken, fill, paint, soft, span

_WHITE = 0.97


def eyes(image: Tensor, frame: Frame, view: View) -> None:
    """Paint both eyes with lids that really close, in place."""
    x, y = view.at_depth(0.8)
    side = torch.sign(x)
    away = x.abs() - frame.eye_spacing  # towards the temple
    level = y - frame.eye_y - frame.eye_slant * -0.25 * away
    profile = (1.0 - (away / frame.eye_width).square()).clamp_min(0.0)
    aperture = frame.eye_open * (1.0 + 0.12 * frame.brow_raise)
    upper = frame.eye_height * profile * (0.35 - 1.35 * aperture)
    lower = frame.eye_height * profile * 0.75
    white = span(level, upper, lower, view.pixel)
    paint(image, white, torch.full_like(frame.skin, _WHITE) - 0.10 * (1.0 - frame.skin))
    darken(image, white * soft((level - upper).clamp_min(0.0).square(), 0.045), 0.30)

    look_x = x - side * frame.eye_spacing - 0.045 * frame.gaze_x - 0.012 * frame.yaw
    look_y = level - 0.022 * frame.gaze_y + 0.004
    radius = (look_x * look_x + look_y * look_y).sqrt()
    paint(image, white * fill(radius - 0.080), frame.iris * 0.75)
    paint(image, white * fill(radius - 0.064), frame.iris)
    paint(image, white * fill(radius - 0.036), torch.full_like(frame.iris, 0.03))
    glint = ((look_x + 0.028).square() + (look_y + 0.030).square()).sqrt()
    paint(image, white * fill(glint - 0.020), torch.ones_like(frame.iris))

    # Lid line, heavier with lashes, and the crease above it.
    thick = 0.016 + 0.014 * frame.lashes
    inside = (profile > 0).to(level.dtype)
    wing = 0.05 * frame.lashes * ((away / frame.eye_width).clamp_min(0.0) ** 2)
    lid = span(level, upper - thick - wing, upper + thick * 0.5, view.pixel) * inside
    paint(image, lid, frame.skin * 0.10 + 0.02)
    crease = span(level, upper - 0.062, upper - 0.042, view.pixel) * inside
    darken(image, crease * profile, 0.25)
    below = span(level, lower, lower + 0.016, view.pixel) * inside
    darken(image, below, 0.25)


def brows(image: Tensor, frame: Frame, view: View) -> None:
    """Paint the brows, in place; they rise with ``brow_raise``."""
    x, y = view.at_depth(0.75)
    away = x.abs() - frame.eye_spacing
    reach = away / 0.22
    arch = 0.045 * frame.brow_arch * (1.0 - (reach - 0.15).square()) - 0.012 * reach
    centre = frame.eye_y - frame.brow_gap - 0.045 * frame.brow_raise - arch
    thick = frame.brow_thickness * (1.05 - 0.35 * reach) * (1.0 - reach.square().square()).clamp_min(0.0).sqrt()
    coverage = span(y, centre - thick, centre + thick, view.pixel) * (reach.abs() < 1.0)
    paint(image, coverage * 0.92, frame.hair * 0.62 + frame.skin * 0.06)


def nose(image: Tensor, frame: Frame, view: View) -> None:
    """Shade bridge, tip and nostrils, in place."""
    x, y = view.at_depth(1.1)
    drop = y - frame.nose_y
    side = x + 0.055 + 0.05 * frame.yaw
    bridge = soft(side.square(), 0.035) * soft((y + 0.02).square(), 0.17)
    darken(image, bridge, 0.13)
    darken(image, soft(x.square() + (drop + 0.07).square(), 0.075), -0.12)
    under = soft((x / frame.nose_width).square() * 0.016 + (drop - 0.02).square(), 0.050)
    darken(image, under, 0.26)
    wings = soft((x.abs() - frame.nose_width * 0.95).square() + (drop + 0.02).square() * 0.8, 0.032)
    darken(image, wings, 0.22)
    nostrils = soft(((x.abs() - frame.nose_width * 0.5) * 0.75).square() + (drop - 0.012).square(), 0.027)
    darken(image, nostrils, 0.50)


def glasses(image: Tensor, frame: Frame, view: View) -> None:
    """Paint round or square frames with a faint reflection, in place."""
    x, y = view.at_depth(0.95)
    across, level = x.abs() - frame.eye_spacing, y - frame.eye_y - 0.01
    circle = (across * across + level * level).sqrt() - 0.215
    over_x, over_y = (across.abs() - 0.165).clamp_min(0.0), (level.abs() - 0.10).clamp_min(0.0)
    box = (over_x * over_x + over_y * over_y).sqrt() - 0.06
    box = torch.maximum(box, torch.maximum(across.abs() - 0.225, level.abs() - 0.16))
    lens = circle + (box - circle) * frame.glasses_square
    worn = torch.maximum(frame.glasses_round, frame.glasses_square)
    bridge = torch.maximum((level + 0.05).abs() - 0.016, x.abs() - frame.eye_spacing + 0.2)
    temples = torch.maximum((level + 0.05).abs() - 0.018, frame.eye_spacing + 0.2 - x.abs())
    temples = torch.maximum(temples, x.abs() - frame.head_width - 0.02)
    paint(image, worn * fill(lens) * 0.10, torch.ones_like(frame.skin))
    glare = soft((across + level * 0.8 + 0.05).square(), 0.035) * fill(lens + 0.03)
    paint(image, worn * glare * 0.22, torch.ones_like(frame.skin))
    rim = torch.minimum(lens.abs() - 0.021, torch.minimum(bridge, temples))
    paint(image, worn * fill(rim), frame.glasses_colour)
