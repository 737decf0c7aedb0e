"""The smallest source of talking faces: a dark ellipse opening and closing on a coloured square."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from training.clips import Clips
from training.tasks.sources import ClipSize


class MovingMouths:
    def __init__(self, count: int, size: ClipSize) -> None:
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def clips(self, indices: Sequence[int]) -> Clips:
        frames, height, width = self.size.num_frames, self.size.height, self.size.width
        rows = torch.arange(height).view(1, height, 1)
        columns = torch.arange(width).view(1, 1, width)
        videos, mouths = [], []
        for index in indices:
            generator = torch.Generator().manual_seed(index)
            phase, speed = torch.rand(2, generator=generator).tolist()
            opening = torch.sin(torch.arange(frames) * (0.3 + 0.2 * speed) + 6 * phase) ** 2
            tall = (1.0 + opening * height / 8).view(-1, 1, 1)
            mouth = ((rows - 0.7 * height) / tall) ** 2 + ((columns - width / 2) / (width / 5)) ** 2 < 1
            colour = 120 + 120 * torch.rand(3, generator=generator)
            video = torch.where(mouth[:, None], torch.tensor(30.0), colour.view(1, 3, 1, 1))
            videos.append(video.to(torch.uint8))
            mouths.append(mouth)
        video, mouth = torch.stack(videos), torch.stack(mouths)
        return Clips(
            video_BFCHW=video,
            references_BRCHW=video[:, :1],
            audio_BS=torch.zeros(len(video), frames * 640),
            has_audio_B=torch.zeros(len(video), dtype=torch.bool),
            face_BFHW=torch.ones_like(mouth),
            mouth_BFHW=mouth,
            captions=[["a mouth"]] * len(video),
            captions_anonymous=[[]] * len(video),
        )


@dataclass(frozen=True)
class MouthSource:
    """``SourceConfig`` of moving mouths."""

    clips: int = 6

    def open(self, split: str, count: int | None, size: ClipSize, device: torch.device) -> MovingMouths:
        return MovingMouths(count or self.clips, size)
