"""Where the faces of a video are, found by OpenCV's cascade classifiers.

Knows pixels and boxes, nothing of latents. OpenCV is an optional extra; the classifiers come with it.

Shape suffixes: F frames, H W pixels, C colours.
"""

from __future__ import annotations

from threading import local
from typing import Any

import numpy as np

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels

EVERY = 4  # frames between two searches
HELD = 2  # searches without a result that the nearest one with a result stands in for
SEARCHED_SIDE = 192  # pixels of the shorter side while searching; finer finds no more
SMALLEST = 0.12  # of the shorter side
CASCADES = ("haarcascade_frontalface_alt2.xml", "haarcascade_profileface.xml")
SCALE_STEP, MIN_NEIGHBOURS = 1.1, 3
SAME_FACE = 0.25  # overlap of one face in two searches

_thread = local()


def find_faces(frames_FHWC: np.ndarray) -> list[list[Box]]:
    """Boxes of every ``EVERY``-th frame.

    A box counts only if a neighbouring search saw the face too; a short gap takes the boxes of the nearest search.
    """
    found = [_search(frame_HWC) for frame_HWC in frames_FHWC[::EVERY]]
    if len(found) == 1:
        return found

    def confirmed(index: int, box: Box) -> bool:
        neighbours = found[max(index - 1, 0) : index] + found[index + 1 : index + 2]
        return any(overlap(box, other) >= SAME_FACE for boxes in neighbours for other in boxes)

    sure = [[box for box in boxes if confirmed(index, box)] for index, boxes in enumerate(found)]
    seen = [index for index, boxes in enumerate(sure) if boxes]
    nearest = [
        min(seen, key=lambda other, index=index: abs(other - index), default=index) for index in range(len(sure))
    ]
    return [sure[near] if abs(near - index) <= HELD else [] for index, near in enumerate(nearest)]


def spread(boxes: list[list[Box]], count: int) -> list[list[Box]]:
    """Boxes of every frame from those of every ``EVERY``-th: the nearest search holds."""
    return [boxes[min((frame + EVERY // 2) // EVERY, len(boxes) - 1)] for frame in range(count)]


def draw(boxes_F: list[list[Box]], height: int, width: int) -> np.ndarray:
    """Bool (F, H, W): the ellipse inside every box."""
    y, x = np.mgrid[:height, :width].astype(np.float32) + 0.5
    mask = np.zeros((len(boxes_F), height, width), bool)
    for frame, boxes in zip(mask, boxes_F, strict=True):
        for x0, y0, x1, y1 in boxes:
            across, down = (x1 - x0) / 2, (y1 - y0) / 2
            if across > 0 and down > 0:
                frame |= ((x - (x0 + x1) / 2) / across) ** 2 + ((y - (y0 + y1) / 2) / down) ** 2 <= 1
    return mask


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def require_detector() -> None:
    """``RuntimeError`` with the cure when the extra is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise RuntimeError("finding faces needs OpenCV: pip install 'humo-rt[face]'") from error
    if not hasattr(cv2, "CascadeClassifier"):
        raise RuntimeError(f"OpenCV {cv2.__version__} has no cascade classifiers: pip install 'humo-rt[face]'")


def _search(frame_HWC: np.ndarray) -> list[Box]:
    """Frontal faces; where there is none, profiles to either side."""
    import cv2

    shrink = min(1.0, SEARCHED_SIDE / min(frame_HWC.shape[:2]))
    size = (round(frame_HWC.shape[1] * shrink), round(frame_HWC.shape[0] * shrink))
    grey_HW = cv2.resize(cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)
    frontal, profile = _cascades()
    boxes = _detect(frontal, grey_HW) or _detect(profile, grey_HW)
    if not boxes:
        mirrored = _detect(profile, np.ascontiguousarray(grey_HW[:, ::-1]))
        boxes = [(size[0] - x1, y0, size[0] - x0, y1) for x0, y0, x1, y1 in mirrored]
    return [tuple(round(edge / shrink) for edge in box) for box in boxes]


def _detect(cascade: Any, grey_HW: np.ndarray) -> list[Box]:
    smallest = round(SMALLEST * min(grey_HW.shape))
    found = cascade.detectMultiScale(grey_HW, SCALE_STEP, MIN_NEIGHBOURS, minSize=(smallest, smallest))
    return [(int(x), int(y), int(x + w), int(y + h)) for x, y, w, h in found]


def _cascades() -> list[Any]:
    """One set for each thread: a classifier keeps state while it searches."""
    if not hasattr(_thread, "cascades"):
        import cv2

        _thread.cascades = [cv2.CascadeClassifier(cv2.data.haarcascades + name) for name in CASCADES]
    return _thread.cascades
