"""Where every pixel lies: in front of the wall, on the body, on the head and on the face.

Knows pose and parallax, nothing of colours. ``x`` runs right and ``y`` down. Wall and body coordinates have the shorter
side of the picture as -1..1; head units are half the height of the head without hair.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.procedural.scene import Frame


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
        return self.x - self.yaw * (0.16 * depth), self.y - self.pitch * (0.10 * depth)


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
    hinge = 0.8
    x = cos * away_x + sin * (away_y - hinge)
    y = -sin * away_x + cos * (away_y - hinge) + hinge
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
