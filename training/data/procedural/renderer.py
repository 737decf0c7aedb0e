"""A scene becomes pictures: the painters in order, chunk by chunk.

Knows the order of layers and nothing of their shapes. Runs on any device in float32; a chunk of frames bounds the
memory, about 60 float planes per frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.procedural import background, body, features, hair, head
from training.data.procedural.camera import Box, View, look
from training.data.procedural.mouth import mouth
from training.data.procedural.scene import Extent, Frame, Scene

# Where each painter has work to do; hair and wall are everywhere.
FACE = Box(-0.92, 0.92, -1.06, 1.20)
BEARD = Box(-0.92, 0.92, -0.30, 1.26)
EARS = Box(-1.10, 1.10, -0.30, 0.35)
NOSE = Box(-0.36, 0.36, -0.56, 0.42)
MOUTH = Box(-0.52, 0.52, 0.15, 1.12)
EYES = Box(-0.62, 0.62, -0.58, 0.14)
GLASSES = Box(-0.92, 0.92, -0.42, 0.22)
BODY = Box(-9.0, 9.0, 0.35, 99.0)

CHUNK_PIXELS = {"cpu": 1 << 18, "cuda": 1 << 24}


@dataclass(frozen=True)
class Pictures:
    """``rgb`` (N, 3, H, W) uint8; ``face`` and ``mouth`` (N, H, W) bool: skin with all on it but hair, and the lips."""

    rgb: Tensor
    face: Tensor
    mouth: Tensor


@torch.no_grad()
def render(scene: Scene, height: int, width: int, *, chunk: int | None = None) -> Pictures:
    """Draw every frame of the scene; ``chunk`` frames at a time (default: by the device)."""
    if chunk is None:
        chunk = max(1, CHUNK_PIXELS.get(scene.static_BP.device.type, 1 << 18) // (height * width))
    parts = [
        draw(scene.frames(start, start + chunk), scene.extent, height, width)
        for start in range(0, scene.num_frames, chunk)
    ]
    return Pictures(*(torch.cat(column) for column in zip(*parts, strict=True)))


def draw(frame: Frame, extent: Extent, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Paint one chunk from back to front: rgb uint8, face mask, mouth mask."""
    view = look(frame, height, width)
    image = background.wall(frame, view)

    def near(box: Box) -> tuple[Tensor, Frame, View]:
        rows, columns = box.window(extent, height, width)
        return image[:, :, rows, columns], frame, view.cut(rows, columns)

    def whole(box: Box, part_Nhw: Tensor) -> Tensor:
        plane = part_Nhw.new_zeros(image.shape[0], height, width)
        plane[(slice(None), *box.window(extent, height, width))] = part_Nhw
        return plane > 0.5

    hair.behind(image, frame, view)
    body.clothes(*near(BODY))
    body.neck(*near(BODY))
    head.ears(*near(EARS))
    face = whole(FACE, head.skin(*near(FACE)))
    features.nose(*near(NOSE))
    head.beard(*near(BEARD))
    lips = whole(MOUTH, mouth(*near(MOUTH)))
    features.eyes(*near(EYES))
    locks = hair.in_front(image, frame, view) > 0.5
    features.brows(*near(EYES))
    features.glasses(*near(GLASSES))
    rgb = (image.clamp_(0.0, 1.0) * 255.0).round_().to(torch.uint8)
    return rgb, face & ~locks, lips & face
