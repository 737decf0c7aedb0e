"""One sample decoded to the size that is trained on: 25 frames a second, cropped around the face, sound at 16 kHz.

Knows how the parts of a clip are brought together. Every ``BadSample`` of the contents is raised here or below.

Shape suffixes: F frames, C colours, H W pixels, h w cells of a coarse mask, S audio samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from humo_rt.conditions.face_detector import Box, draw, find_faces, spread
from humo_rt.conditions.image import fit_on_white
from humo_rt.config import FPS, SAMPLE_RATE
from humo_rt.media import read_audio, read_image
from training.data.humoset.frames import read_footage
from training.data.humoset.mask_file import read_masks
from training.data.humoset.sample import BadSample, Sample

FaceMode = Literal["auto", "file", "detect", "none"]

INAUDIBLE = 1e-3  # peak below which a sound track teaches nothing


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a clip is turned into.

    ``faces``: "file" takes the masks of the data set, "detect" searches, "auto" searches where there is no file,
    "none" leaves masks out and accepts clips without a face.
    """

    height: int
    width: int
    num_frames: int
    faces: FaceMode = "auto"

    def __post_init__(self) -> None:
        if self.height % 16 or self.width % 16 or min(self.height, self.width) < 16:
            raise ValueError(f"clips of {self.height}x{self.width} do not fit the model: use multiples of 16")
        if self.num_frames % 4 != 1:
            raise ValueError(f"num_frames is {self.num_frames}: use 4n + 1")


@dataclass(frozen=True, kw_only=True)
class Recording:
    """``video_FCHW`` and ``references_CHW`` uint8; ``sound_S`` float32, zeros when ``has_sound`` is False.

    ``found`` keeps the boxes of a search, in the video's own pixels, so that it need not be repeated.
    """

    video_FCHW: Tensor
    references_CHW: list[Tensor]
    sound_S: Tensor
    has_sound: bool
    face_FHW: Tensor | None
    found: list[list[Box]] | None


def record(sample: Sample, form: Form, found: list[list[Box]] | None = None) -> Recording:
    """Decode one sample. ``found`` are boxes of an earlier search. ``BadSample`` says why it cannot be used."""
    footage = read_footage(sample.video, form.num_frames)
    frames_FHWC = footage.frames_FHWC
    mask_Fhw = None
    if form.faces != "none":
        if _searched(sample, form) and found is None:
            found = find_faces(frames_FHWC)
        mask_Fhw = _face_mask(sample, form, footage.source_F, frames_FHWC.shape[1:3], found)
        if not mask_Fhw.any():
            raise BadSample("no face", f"in {form.num_frames} frames")
    window = cover(frames_FHWC.shape[1:3], (form.height, form.width), _centre(mask_Fhw))
    face_FHW = None if mask_Fhw is None else _resize_mask(mask_Fhw, frames_FHWC.shape[1:3], window, form)
    if face_FHW is not None and not face_FHW.any():
        raise BadSample("no face", f"left in a crop to {form.height}x{form.width}")
    sound_S = _sound(sample.video, form.num_frames) if footage.has_sound else None
    silent = torch.zeros(form.num_frames * SAMPLE_RATE // FPS)
    return Recording(
        video_FCHW=_resize(frames_FHWC, window, form),
        references_CHW=[_reference(path, form) for path in sample.references],
        sound_S=silent if sound_S is None else sound_S,
        has_sound=sound_S is not None and bool(sound_S.abs().max() > INAUDIBLE),
        face_FHW=face_FHW,
        found=found,
    )


def cover(
    size: tuple[int, ...], wanted: tuple[int, int], centre: tuple[float, float] | None
) -> tuple[int, int, int, int]:
    """Top, left, height, width of the largest window of the wanted ratio, around ``centre`` (0..1) where it fits."""
    height, width = size
    scale = min(height / wanted[0], width / wanted[1])
    tall, wide = round(wanted[0] * scale), round(wanted[1] * scale)
    y, x = centre or (0.5, 0.5)
    top = min(max(round(y * height - tall / 2), 0), height - tall)
    left = min(max(round(x * width - wide / 2), 0), width - wide)
    return top, left, tall, wide


def _searched(sample: Sample, form: Form) -> bool:
    return form.faces == "detect" or (form.faces == "auto" and sample.face_mask is None)


def _face_mask(
    sample: Sample, form: Form, source_F: list[int], size: Sequence[int], found: list[list[Box]] | None
) -> np.ndarray:
    if _searched(sample, form):
        assert found is not None
        return draw(spread(found, form.num_frames), *size)
    if sample.face_mask is None:
        raise BadSample("missing face mask", "faces='auto' would search for it")
    return read_masks(sample.face_mask, source_F, *size)


def _centre(mask_Fhw: np.ndarray | None) -> tuple[float, float] | None:
    """Middle of everything that is face at any time, as shares of height and width."""
    if mask_Fhw is None:
        return None
    seen = mask_Fhw.any(axis=0)
    middles = []
    for axis in (1, 0):
        marked = np.flatnonzero(seen.any(axis=axis))
        middles.append((marked[0] + marked[-1] + 1) / 2 / seen.shape[1 - axis])
    return middles[0], middles[1]


def _resize(frames_FHWC: np.ndarray, window: tuple[int, int, int, int], form: Form) -> Tensor:
    top, left, tall, wide = window
    frames_FCHW = torch.from_numpy(frames_FHWC)[:, top : top + tall, left : left + wide].permute(0, 3, 1, 2)
    size = (form.height, form.width)
    if (tall, wide) == size:
        return frames_FCHW.contiguous()
    return F.interpolate(frames_FCHW, size, mode="bicubic", antialias=True).contiguous()


def _resize_mask(mask_Fhw: np.ndarray, size: Sequence[int], window: tuple[int, int, int, int], form: Form) -> Tensor:
    """The coarse mask at the centre of every pixel of the result."""
    top, left, tall, wide = window
    rows = ((np.arange(form.height) + 0.5) / form.height * tall + top) / size[0] * mask_Fhw.shape[1]
    columns = ((np.arange(form.width) + 0.5) / form.width * wide + left) / size[1] * mask_Fhw.shape[2]
    return torch.from_numpy(mask_Fhw[:, rows.astype(int)][:, :, columns.astype(int)])


def _sound(path: Path, num_frames: int) -> Tensor:
    """Exactly the sound of the frames; what a shorter track lacks is silence."""
    try:
        samples_S = read_audio(path)
    except ValueError as error:
        raise BadSample("unreadable sound", str(error)) from error
    wanted = num_frames * SAMPLE_RATE // FPS
    return torch.from_numpy(np.pad(samples_S[:wanted], (0, max(wanted - len(samples_S), 0))))


def _reference(path: Path, form: Form) -> Tensor:
    try:
        fitted = fit_on_white(read_image(path), form.width, form.height)
    except ValueError as error:
        raise BadSample("unreadable reference", str(error)) from error
    return ((fitted + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
