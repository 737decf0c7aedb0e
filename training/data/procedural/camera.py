"""Where every pixel lies: in front of the wall, on the body, on the head and on the face.

Knows pose and parallax, nothing of colours. ``x`` runs right and ``y`` down. Wall and body coordinates have the shorter
side of the picture as -1..1; head units are half the height of the head without hair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from training.data.procedural.scene import Extent, Frame

HINGE = 0.8  # where the head tilts, head units below its centre
_PARALLAX_X, _PARALLAX_Y = 0.16, 0.10
_DEEPEST = 1.1


@dataclass(frozen=True)
class View:
    """Coordinates (N, H, W) and the size of a pixel in head units (N, 1, 1)."""

    wall_x: Tensor
    wall_y: Tensor
    body_x: Tensor
    body_y: Tensor
    x: Tensor
    y: Tensor
    pixel: Tensor
    yaw: Tensor
    pitch: Tensor

    def at_depth(self, depth: float) -> tuple[Tensor, Tensor]:
        """Head coordinates of features that stick out by ``depth``: they shift more when the head turns."""
        return self.x - self.yaw * (_PARALLAX_X * depth), self.y - self.pitch * (_PARALLAX_Y * depth)

    def cut(self, rows: slice, columns: slice) -> View:
        """The same view through a part of the picture."""
        parts = {name: getattr(self, name)[:, rows, columns] for name in _PLANES}
        return replace(self, **parts)


_PLANES = ("wall_x", "wall_y", "body_x", "body_y", "x", "y")


@dataclass(frozen=True)
class Box:
    """A part of the head in head units, large enough for a feature at rest."""

    left: float
    right: float
    top: float
    bottom: float

    def window(self, extent: Extent, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns that the box can reach anywhere in the scene."""
        sway, shrink = math.sin(extent.roll), 1.0 - math.cos(extent.roll)
        lever = max(abs(self.top - HINGE), abs(self.bottom - HINGE))
        spread_x = sway * lever + _PARALLAX_X * _DEEPEST * extent.yaw
        spread_y = sway * max(-self.left, self.right) + shrink * lever + _PARALLAX_Y * _DEEPEST * extent.pitch
        shorter = min(height, width)
        rows = _pixels(self.top - spread_y, self.bottom + spread_y, extent, "y", height, shorter)
        return rows, _pixels(self.left - spread_x, self.right + spread_x, extent, "x", width, shorter)


def _pixels(low: float, high: float, extent: Extent, axis: Literal["x", "y"], size: int, shorter: int) -> slice:
    """The pixels that ``low..high`` head units cover at any place and size of the head; never empty."""
    nearest, furthest = extent.x if axis == "x" else extent.y
    first = min(low * scale for scale in extent.scale) + nearest
    last = max(high * scale for scale in extent.scale) + furthest
    start = math.floor((first * shorter + size) / 2) - 2
    stop = math.ceil((last * shorter + size) / 2) + 2
    start = min(max(start, 0), size - 1)
    return slice(start, max(min(stop, size), start + 1))


def look(frame: Frame, height: int, width: int) -> View:
    """Trace the pixels of N frames."""
    shorter = min(height, width)
    device, step = frame.head_x.device, 2.0 / shorter
    grid_x = ((torch.arange(width, device=device) + 0.5) * step - width / shorter).view(1, 1, width)
    grid_y = ((torch.arange(height, device=device) + 0.5) * step - height / shorter).view(1, height, 1)
    # The wall is further away than the person: it moves and grows less with the camera.
    far_zoom = 1.0 + (frame.zoom - 1.0) * 0.4
    wall_x = (grid_x / far_zoom + frame.pan_x * 0.5).expand(-1, height, width)
    wall_y = (grid_y / far_zoom + frame.pan_y * 0.5).expand(-1, height, width)
    near_x, near_y = grid_x / frame.zoom + frame.pan_x, grid_y / frame.zoom + frame.pan_y

    scale = frame.head_scale
    away_x, away_y = (near_x - frame.head_x) / scale, (near_y - frame.place_y - frame.head_y) / scale
    # The head tilts about the neck, so that it stays on the shoulders.
    cos, sin = torch.cos(frame.roll), torch.sin(frame.roll)
    x = cos * away_x + sin * (away_y - HINGE)
    y = -sin * away_x + cos * (away_y - HINGE) + HINGE
    return View(
        wall_x=wall_x,
        wall_y=wall_y,
        body_x=((near_x - frame.head_x * 0.5) / scale).expand(-1, height, width),
        body_y=((near_y - frame.place_y - frame.head_y * 0.4) / scale).expand(-1, height, width),
        x=x,
        y=y,
        pixel=step / (scale * frame.zoom),
        yaw=frame.yaw,
        pitch=frame.pitch,
    )
