"""A scene becomes pictures: the painters in order, chunk by chunk.

Knows the order of layers and nothing of their shapes. Runs on any device in float32; a chunk of frames bounds the
memory, about 60 float planes per frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.procedural import background, body, features, hair, head
from training.data.procedural.camera import look
from training.data.procedural.mouth import mouth
from training.data.procedural.scene import Frame, Scene

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
    parts = [draw(scene.frames(start, start + chunk), height, width) for start in range(0, scene.num_frames, chunk)]
    return Pictures(*(torch.cat(column) for column in zip(*parts, strict=True)))


def draw(frame: Frame, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Paint one chunk from back to front: rgb uint8, face mask, mouth mask."""
    view = look(frame, height, width)
    image = background.wall(frame, view)
    hair.behind(image, frame, view)
    body.clothes(image, frame, view)
    body.neck(image, frame, view)
    head.ears(image, frame, view)
    face = head.skin(image, frame, view)
    features.nose(image, frame, view)
    head.beard(image, frame, view, face)
    lips = mouth(image, frame, view)
    features.eyes(image, frame, view)
    locks = hair.in_front(image, frame, view)
    features.brows(image, frame, view)
    features.glasses(image, frame, view)
    rgb = (image.clamp_(0.0, 1.0) * 255.0).round_().to(torch.uint8)
    return rgb, (face > 0.5) & (locks < 0.5), (lips > 0.5) & (face > 0.5)
