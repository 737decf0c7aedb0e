"""Face masks on the latent grid: what the mask predictor is trained on, and where a user lets the audio act.

Knows the strides of the autoencoder. Finding faces is ``face_detector``'s work.
Shape legend: F video frames, H height, W width, T latent frames, R reference slots, P speakers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as Func
from torch import Tensor

from humo_rt.conditions import face_detector
from humo_rt.config import SPATIAL_STRIDE, TEMPORAL_STRIDE
from humo_rt.media import read_image, read_video
from humo_rt.media.image import ImageSource

Box: TypeAlias = Sequence[float]

PREDICTOR = "predictor"
DETECT = "detect"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class DetectFaces:
    """A face mask that is found: wherever ``source``, a picture of the video's size or an earlier video, has faces.

    ``source``: an image or a video file, a Pillow image, or an array (H, W, 3) or (F, H, W, 3) uint8, such as the
    frames of an earlier result. A reference image does not tell where in the video its face will be.
    ``"detect:FILE"`` means the same as ``DetectFaces("FILE")``.
    """

    source: ImageSource


FaceMaskSource: TypeAlias = "ImageSource | Tensor | Box | Sequence[Box] | DetectFaces"


def mask_to_latent_grid(mask_FHW: Tensor) -> Tensor:
    """Binary face mask of a video on its latent grid.

    ``mask_FHW``: (..., 4n + 1, H, W) bool or 0/1, H and W multiples of 8; leading dimensions are a batch. A latent cell
    is 1 where at least half of its pixels are face, counted over 8x8 pixels and over the video frames the latent frame
    stands for: frame 0 for the first, frames 4k-3 .. 4k for the k-th. Returns (..., n + 1, H / 8, W / 8) float32.
    """
    return (_share_of_face(mask_FHW) >= 0.5).float()


def read_face_mask(source: FaceMaskSource, *, num_frames: int, height: int, width: int) -> Tensor:
    """A user's face mask as weights (T, H / 8, W / 8), float32 in 0..1: the share of each latent cell that is face.

    ``source``: a box (left, top, right, bottom) in pixels of the video or several, for all frames; an image, white
    where the face is, for all frames; a video, one mask for each frame; an array or a tensor (H, W) or (F, H, W), bool,
    in 0..1, or uint8 as an image; or ``DetectFaces`` or ``"detect:FILE"``. ``ValueError`` for another size than the
    video's, a box outside of it, or a mask without a face; ``RuntimeError`` when faces are to be found and OpenCV is
    missing.
    """
    if isinstance(source, Tensor):
        source = (source.float() if source.is_floating_point() else source).cpu().numpy()
    wanted = _detection(source)
    if wanted is not None:
        mask_FHW = _found_faces(wanted)
    elif isinstance(source, list | tuple):
        mask_FHW = _filled_boxes(source, height, width)
    elif _is_video(source):
        mask_FHW = _from_levels(torch.from_numpy(read_video(source)[0]).float().mean(-1))
    elif isinstance(source, np.ndarray) and source.ndim in (2, 3) and source.shape[2:] not in ((1,), (3,), (4,)):
        mask_FHW = _from_array(source if source.ndim == 3 else source[None])
    else:
        mask_FHW = _from_levels(torch.from_numpy(np.array(read_image(source).convert("L")))[None])
    if mask_FHW.shape[1:] != (height, width):
        found = f"{mask_FHW.shape[2]}x{mask_FHW.shape[1]}"
        raise ValueError(f"face mask is {found}, the video {width}x{height}: resize the mask to the video")
    if len(mask_FHW) not in (1, num_frames):
        raise ValueError(
            f"face mask has {len(mask_FHW)} frames, the video {num_frames}: give one for each frame, or one for all"
        )
    weights_THW = _share_of_face(mask_FHW.expand(num_frames, -1, -1))
    if not weights_THW.any():
        raise ValueError(
            "face mask is black everywhere, so no face would speak: mark the face in white, or leave it out"
        )
    return weights_THW


def read_face_masks(sources: Sequence[FaceMaskSource], **size: int) -> Tensor:
    """The weights of several speakers, (P, T, H / 8, W / 8); as ``read_face_mask``, errors name the speaker."""
    weights = []
    for speaker, source in enumerate(sources):
        try:
            weights.append(read_face_mask(source, **size))
        except ValueError as error:
            raise ValueError(f"speaker {speaker}: {error}") from error
    return torch.stack(weights)


def with_reference_frames(weights_THW: Tensor, slots: int) -> Tensor:
    """(T + R, H / 8, W / 8): silence, the audio of reference frames, acts on the whole of them, as without a mask.

    Of several speakers (P, T, H / 8, W / 8) it acts as the first one's alone, because what speakers add is summed.
    """
    extended = Func.pad(weights_THW, (0, 0, 0, 0, 0, slots), value=1.0)
    if weights_THW.ndim == 4:
        extended[1:, weights_THW.shape[1] :] = 0
    return extended


def _share_of_face(mask_FHW: Tensor) -> Tensor:
    """Mean over each latent cell, (..., n + 1, H / 8, W / 8)."""
    frames, height, width = mask_FHW.shape[-3:]
    if frames % TEMPORAL_STRIDE != 1 or height % SPATIAL_STRIDE or width % SPATIAL_STRIDE:
        raise ValueError(
            f"a face mask of {frames} frames, {height}x{width} has no latent grid: use 4n + 1 frames and multiples of 8"
        )
    rows = mask_FHW.float().unflatten(-1, (-1, SPATIAL_STRIDE)).unflatten(-3, (-1, SPATIAL_STRIDE))
    # (..., F, h, 8, w, 8): shares of face pixels are exact in float32, multiples of 1/64 and then of 1/256.
    share = rows.mean(dim=(-3, -1))
    first, rest = share[..., :1, :, :], share[..., 1:, :, :]
    grouped = rest.unflatten(-3, ((frames - 1) // TEMPORAL_STRIDE, TEMPORAL_STRIDE)).mean(dim=-3)
    return torch.cat([first, grouped], dim=-3)


def is_box(value: Any) -> bool:
    """Whether ``value`` is meant as one box: nothing but numbers, at least one."""
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(x, Real) for x in value)


def _filled_boxes(boxes: Box | Sequence[Box], height: int, width: int) -> Tensor:
    if not boxes:
        raise ValueError(f"face_masks {boxes!r} holds no box: give (left, top, right, bottom), or leave it out")
    mask_1HW = torch.zeros(1, height, width)
    for box in [boxes] if is_box(boxes) else boxes:
        if not (is_box(box) and len(box) == 4):
            raise ValueError(
                f"face box {box!r} is not (left, top, right, bottom): give four numbers in pixels; of one speaker "
                "another mask stands by itself, not in a list"
            )
        left, top, right, bottom = box
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(
                f"face box {tuple(box)} does not lie in the {width}x{height} video: use 0 <= left < right <= {width} "
                f"and 0 <= top < bottom <= {height}"
            )
        inside_HW = mask_1HW[0, round(top) : round(bottom), round(left) : round(right)]
        if not inside_HW.numel():
            raise ValueError(f"face box {tuple(box)} is smaller than a pixel: give whole pixels, such as (0, 0, 8, 8)")
        inside_HW.fill_(1)
    return mask_1HW


def _detection(source: FaceMaskSource) -> DetectFaces | None:
    """The faces to be found, if any are."""
    if isinstance(source, DetectFaces):
        return source
    if not isinstance(source, str) or source.partition(":")[0] != DETECT:
        return None
    file = source.partition(":")[2]
    if not file:
        raise ValueError(
            f"face mask {source!r} names no picture: write detect:FILE, a picture of the video's size or a video"
        )
    return DetectFaces(file)


def _found_faces(wanted: DetectFaces) -> Tensor:
    """One mask for each frame of the source. A frame without a face takes the faces of the nearest that has some."""
    face_detector.require_detector()
    source = wanted.source
    if _is_video(source):
        frames_FHWC = read_video(source)[0]
    elif isinstance(source, np.ndarray) and source.ndim == 4:
        frames_FHWC = source
        if source.dtype != np.uint8 or source.shape[-1] != 3:
            raise ValueError(f"frames {source.shape} of {source.dtype} have no faces: give (F, H, W, 3) uint8")
    else:
        frames_FHWC = np.array(read_image(source))[None]
    boxes = face_detector.spread(face_detector.find_faces(frames_FHWC), len(frames_FHWC))
    seen = [frame for frame, found in enumerate(boxes) if found]
    if not seen:
        raise ValueError(f"no face is found in {source_name(source)}: give a mask or a box, or another picture")
    nearest = (min(seen, key=lambda other: abs(other - frame)) for frame in range(len(boxes)))
    return torch.from_numpy(face_detector.draw([boxes[frame] for frame in nearest], *frames_FHWC.shape[1:3])).float()


def source_name(source: ImageSource) -> str:
    """What a message or a record calls a picture."""
    if isinstance(source, str | os.PathLike):
        return str(Path(source))
    shape = getattr(source, "shape", None) or (source.height, source.width)
    if len(shape) == 4:
        return f"<{shape[0]} frames of {shape[2]}x{shape[1]}>"
    return f"<image of {shape[1]}x{shape[0]}>"


def _is_video(source: FaceMaskSource) -> bool:
    return isinstance(source, str | os.PathLike) and Path(source).suffix.lower() not in IMAGE_SUFFIXES


def _from_levels(levels_FHW: Tensor) -> Tensor:
    """0..1 of levels 0..255. A mask of 0 and 1 would pass for one without a face, nearly."""
    if 0 < levels_FHW.max() <= 1:
        raise ValueError(
            "the brightest pixel of the face mask is 1 of 255, nearly black: give the face 255, or use an array of bool"
        )
    return levels_FHW.float() / 255


def _from_array(mask_FHW: np.ndarray) -> Tensor:
    if not mask_FHW.size:
        raise ValueError(f"face mask of shape {mask_FHW.shape} is empty: give one for each frame, or one for all")
    if mask_FHW.dtype == np.uint8:
        return _from_levels(torch.from_numpy(mask_FHW))
    mask = torch.from_numpy(np.asarray(mask_FHW, dtype=np.float32))
    if not (mask.isfinite().all() and mask.min() >= 0 and mask.max() <= 1):
        raise ValueError(f"face mask ranges from {mask.min():.3g} to {mask.max():.3g}: scale it to 0..1")
    return mask
