"""The mouth: lips that open exactly as far as the track says, with teeth and tongue inside.

The opening is drawn by exact vertical coverage, so a closed mouth shows a thin seam and no streaks.
"""

from __future__ import annotations

from torch import Tensor

from training.data.procedural.camera import View
from training.data.procedural.scene import Frame
from training.data.procedural.shapes import darken, paint, soft, span

_UPWARD_SHARE = 0.25  # of the opening; the jaw does the rest


def mouth(image: Tensor, frame: Frame, view: View) -> Tensor:
    """Paint the mouth, in place; returns the coverage of lips and opening together (N, H, W)."""
    x, y = view.at_depth(0.9)
    half_width = frame.mouth_width * (1.0 + 0.19 * frame.mouth_spread)
    across = x / half_width
    profile = (1.0 - across.square()).clamp_min(0.0)
    # Relaxed lips smile a little; an open mouth straightens.
    corner = -0.10 * frame.smile * (1.0 - 0.6 * frame.mouth_open) - 0.02 * frame.mouth_spread
    level = y - frame.mouth_y - corner * across.square()
    gap = frame.mouth_height * frame.mouth_open
    full = profile * (1.6 - 0.6 * profile)  # rounder than a parabola: a mouth, not a lens
    top, bottom = -_UPWARD_SHARE * gap * full, (1.0 - _UPWARD_SHARE) * gap * full
    pout = 1.0 - 0.25 * frame.mouth_spread

    bow = 1.0 - 0.30 * soft(across.square(), 0.22)
    outer = (1.0 - (across / 1.07).square()).clamp_min(0.0)
    lip_top = top - frame.lip_upper * pout * bow * outer.sqrt() * (0.45 + 0.55 * outer)
    lip_bottom = bottom + frame.lip_lower * pout * outer.sqrt() * (0.3 + 0.7 * outer)
    inside_x = span(x, -half_width * 1.07, half_width * 1.07, view.pixel)
    lips = span(level, lip_top, lip_bottom, view.pixel) * inside_x
    lip_colour = frame.skin + (frame.lip_tint * (0.35 + 0.65 * frame.skin) - frame.skin) * frame.lip_red[..., None]
    # The lower lip throws a soft shadow on the chin.
    darken(image, soft(across.square() * 0.02 + (level - lip_bottom - 0.06).square(), 0.05) * (1.0 - lips), 0.14)
    paint(image, lips, lip_colour * 0.92)
    darken(image, lips * (level < (top + bottom) / 2), 0.16)
    shine = soft((across * 0.12).square() + (level - bottom - 0.45 * frame.lip_lower).square(), 0.032)
    darken(image, lips * shine, -0.16)

    opening = span(level, top, bottom, view.pixel) * span(x, -half_width, half_width, view.pixel)
    seam = span(level, top - 0.010, bottom + 0.010, view.pixel) * (profile > 0) * (1.0 - opening)
    darken(image, seam, 0.50)
    paint(image, opening, _rgb(frame, 0.20, 0.05, 0.07))
    _inside(image, frame, view, opening, across, level, top, bottom)
    return lips


def _inside(
    image: Tensor, frame: Frame, view: View, opening: Tensor, across: Tensor, level: Tensor, top: Tensor, bottom: Tensor
) -> None:
    """Upper teeth and the tongue, shares of the opening so that the dark between them follows the track too."""
    teeth = span(level, top, top + 0.30 * (bottom - top).clamp_max(0.24), view.pixel) * (across.abs() < 0.82)
    paint(image, opening * teeth, _rgb(frame, 0.93, 0.91, 0.87))
    height = (bottom - top).clamp_min(1e-3)
    tongue = ((across / 0.62).square() + ((level - bottom) / (0.34 * height)).square()) < 1.0
    paint(image, opening * tongue * 0.85, _rgb(frame, 0.68, 0.27, 0.29))


def _rgb(frame: Frame, red: float, green: float, blue: float) -> Tensor:
    return frame.skin.new_tensor((red, green, blue)).view(1, 3, 1, 1)
