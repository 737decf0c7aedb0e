"""Hair: one parametric shape whose numbers make every style."""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.procedural.camera import View
from training.data.procedural.scene import Frame
from training.data.procedural.shapes import darken, fill, paint, soft


def behind(image: Tensor, frame: Frame, view: View) -> None:
    """Paint the hair behind the head and neck, in place: long hair, a bun, an afro."""
    x, y = view.at_depth(-0.5)
    radius, top = 0.5, -0.8
    middle, half = (frame.back_end + top) / 2, (frame.back_end - top) / 2
    over_x = (x.abs() - frame.back_width + radius).clamp_min(0.0)
    over_y = ((y - middle).abs() - half + radius).clamp_min(0.0)
    curtain = (over_x * over_x + over_y * over_y).sqrt() - radius
    curtain = torch.where(frame.back_width > 0.1, curtain, 1.0)
    ball = (x * x + (y + 0.30).square()).sqrt() - frame.back_round - _bumps(frame, x, y + 0.3)
    ball = torch.where(frame.back_round > 0.1, ball, 1.0)
    coverage = torch.maximum(fill(torch.minimum(curtain, ball)), _tuft(frame, view) * (1.0 - frame.tuft_front))
    paint(image, coverage, frame.hair * 0.82)
    _strands(image, frame, x, y, coverage)


def in_front(image: Tensor, frame: Frame, view: View) -> Tensor:
    """Paint the hair over the skull and the sides of the face, in place; returns its coverage (N, H, W)."""
    x, y = view.at_depth(0.15)
    outer_x, outer_y = frame.head_width + frame.hair_side, 0.9 + frame.hair_top
    # Below the ears straight hair hangs down, curls round off.
    lifted = (y + 0.1).clamp_max(0.0) / outer_y + (y + 0.1).clamp_min(0.0) * frame.hair_round
    skull = (((x / outer_x).square() + lifted.square()).sqrt() - 1.0) * outer_x - _bumps(frame, x, y + 0.1)
    inner_x, inner_y = view.at_depth(0.6)
    line = inner_y - frame.hair_line - frame.hair_curve * (inner_x - frame.hair_part * 0.3).square()
    line = line - frame.hair_part * inner_x * 0.6
    # Strands hang beside the cheeks down to their length, narrowing towards the end.
    inset = frame.head_width - 0.10 + 0.10 * ((y - 0.1) / (frame.hair_strand + 0.6)).clamp(0.0, 1.0)
    strand = torch.maximum(inset - x.abs(), y - frame.hair_strand - 0.5 * (x.abs() - inset - 0.12))
    coverage = fill(torch.maximum(skull, torch.minimum(line, strand))) * frame.hair_on
    shadow = soft((line - 0.02).clamp_min(0.0).square(), 0.10) * fill(skull) * frame.hair_on
    darken(image, shadow * (1.0 - coverage), 0.16)
    coverage = torch.maximum(coverage, _tuft(frame, view) * frame.tuft_front)
    paint(image, coverage, frame.hair)
    _strands(image, frame, x, y, coverage)
    return coverage


def _tuft(frame: Frame, view: View) -> Tensor:
    """A bun above the head, or the crest of a mohawk."""
    x, y = view.at_depth(-0.2)
    width, height = frame.tuft_width.clamp_min(1e-3), frame.tuft_height.clamp_min(1e-3)
    field = ((x / width).square() + ((y - frame.tuft_y) / height).square()).sqrt() - 1.0
    return torch.where(frame.tuft_width > 0.01, fill(field), 0.0)


def _strands(image: Tensor, frame: Frame, x: Tensor, y: Tensor, coverage: Tensor) -> None:
    """Light on top, a band of shine and fine darker lines along the fall of the hair."""
    fall = torch.sin((x + 0.12 * torch.sin(3.0 * y)) * 26.0) * 0.5 + 0.5
    darken(image, coverage * fall, 0.10)
    top = soft(((x + 0.25) * 0.9).square() + (y + 0.85).square(), 0.42)
    darken(image, coverage * top * frame.hair_shine, -0.45)
    darken(image, coverage * ((y + 0.2) * 0.45).clamp(0.0, 0.5), 0.5)


def _bumps(frame: Frame, x: Tensor, y: Tensor) -> Tensor:
    """Curls along the outline."""
    return frame.hair_bump * torch.sin(torch.atan2(x, -y) * 17.0)
