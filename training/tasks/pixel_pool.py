"""Clips as pixels, kept on the device as bytes: what the video autoencoder is trained on.

Knows sources of clips and how short clips are cut out of them. 3,000 clips of 97 frames at 128x128 take 19 GB.

Shape suffixes: N clips of the pool, B in a batch, F frames, C colours, H W pixels, R references.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from training.clips import Clips, ClipSource, to_unit_range

logger = logging.getLogger(__name__)

_CLIPS_AT_ONCE = 32
_FACE, _MOUTH = 1, 2


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """Short clips: ``video_BCFHW`` float in [-1, 1], ``face_BFHW`` and ``mouth_BFHW`` bool."""

    video_BCFHW: Tensor
    face_BFHW: Tensor
    mouth_BFHW: Tensor


@dataclass(frozen=True, kw_only=True)
class PixelPool:
    """``video`` and ``references`` uint8; ``region_NFHW`` uint8, bit 1 face, bit 2 mouth (zeros without masks)."""

    video_NFCHW: Tensor
    references_NRCHW: Tensor
    region_NFHW: Tensor

    def __len__(self) -> int:
        return self.video_NFCHW.shape[0]

    @classmethod
    def fill(cls, source: ClipSource, device: torch.device) -> PixelPool:
        """Take every clip of the source once."""
        start = time.monotonic()
        columns: list[Tensor] = []
        for first in range(0, len(source), _CLIPS_AT_ONCE):
            clips = source.clips(range(first, min(first + _CLIPS_AT_ONCE, len(source))))
            part = (clips.video_BFCHW, clips.references_BRCHW, _region(clips))
            if not columns:  # allocated once: joining at the end would need twice the memory
                columns = [value.new_empty((len(source), *value.shape[1:]), device=device) for value in part]
            for column, value in zip(columns, part, strict=True):
                column[first : first + len(clips)] = value
        video, references, region = columns
        logger.info("%d clips as pixels in %.0f s", len(video), time.monotonic() - start)
        return cls(video_NFCHW=video, references_NRCHW=references, region_NFHW=region)

    def cut(self, count: int, frames: int, side: int | None, generator: torch.Generator) -> Cutting:
        """``count`` stretches of ``frames`` frames at random moments, half of them mirrored.

        With ``side``, only a square of so many pixels with the mouth somewhere in it (anywhere, without masks).
        """
        device, length = self.video_NFCHW.device, self.video_NFCHW.shape[1]
        clip_B = torch.randint(len(self), (count,), generator=generator, device=device)
        start_B = torch.randint(length - frames + 1, (count,), generator=generator, device=device)
        mirror_B = torch.rand(count, generator=generator, device=device) < 0.5
        rows_BH, columns_BW = self._square(clip_B, start_B, side, generator)
        columns_BW = torch.where(mirror_B[:, None], columns_BW.flip(-1), columns_BW)
        # One gather each: the index arrays broadcast to (B, F, H, W), and with colours to (B, F, 3, H, W).
        time_BF11 = (start_B[:, None] + torch.arange(frames, device=device))[:, :, None, None]
        clip, rows, columns = clip_B.view(-1, 1, 1, 1), rows_BH[:, None, :, None], columns_BW[:, None, None, :]
        region = self.region_NFHW[clip, time_BF11, rows, columns]
        colours = torch.arange(3, device=device).view(3, 1, 1)
        video = self.video_NFCHW[clip[..., None], time_BF11[..., None], colours, rows[:, :, None], columns[:, :, None]]
        return _cutting(video, region)

    def _square(
        self, clip_B: Tensor, start_B: Tensor, side: int | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Rows and columns to cut out of every clip: (B, side) each, or the whole picture."""
        device, sizes = clip_B.device, self.video_NFCHW.shape[-2:]
        mouth_BHW = (self.region_NFHW[clip_B, start_B] & _MOUTH).bool().float()
        found_B = mouth_BHW.sum(dim=(1, 2))
        axes = []
        for axis, size in zip((2, 1), sizes, strict=True):
            if side is None:
                axes.append(torch.arange(size, device=device).expand(len(clip_B), -1))
                continue
            place = torch.arange(size, device=device, dtype=torch.float32)
            mouth_B = (mouth_BHW.sum(dim=axis) * place).sum(dim=1) / found_B.clamp(min=1.0)
            share_B = torch.rand(len(clip_B), generator=generator, device=device)
            around_B = mouth_B - side * (0.2 + 0.6 * share_B)
            first_B = torch.where(found_B > 0, around_B, share_B * (size - side)).round().long().clamp(0, size - side)
            axes.append(first_B[:, None] + torch.arange(side, device=device))
        return axes[0], axes[1]

    def whole(self, first: int, count: int) -> Cutting:
        """Clips ``first`` to ``first + count`` as they are."""
        rows = slice(first, first + count)
        return _cutting(self.video_NFCHW[rows], self.region_NFHW[rows])

    def stills(self, count: int, generator: torch.Generator) -> Cutting:
        """Random reference images as clips of one frame; nothing in them is marked."""
        device = self.video_NFCHW.device
        clip_B = torch.randint(len(self), (count,), generator=generator, device=device)
        which_B = torch.randint(self.references_NRCHW.shape[1], (count,), generator=generator, device=device)
        picture_B1CHW = self.references_NRCHW[clip_B, which_B][:, None]
        return _cutting(picture_B1CHW, torch.zeros_like(picture_B1CHW[:, :, 0]))


def _region(clips: Clips) -> Tensor:
    region = torch.zeros_like(clips.video_BFCHW[:, :, 0])
    for mask, bit in ((clips.face_BFHW, _FACE), (clips.mouth_BFHW, _MOUTH)):
        if mask is not None:
            region |= mask.to(torch.uint8) * bit
    return region


def _cutting(video_BFCHW: Tensor, region_BFHW: Tensor) -> Cutting:
    return Cutting(
        video_BCFHW=to_unit_range(video_BFCHW.transpose(1, 2)),
        face_BFHW=(region_BFHW & _FACE).bool(),
        mouth_BFHW=(region_BFHW & _MOUTH).bool(),
    )
