"""The judges: four small convolutional networks that read a mouth, a person, attributes and synchrony from frames.

Forward passes only. Every judge sees pixels in [0, 1] and nothing of the model it judges.

Shape legend: N images, B clips, K images per clip, C channels, H height, W width, D embedding width, F video frames,
M mel bands, S mel frames per window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

METADATA_KEY = "judges"
HEAT_STRIDE = 4
MOUTH_CROP = 48
SYNC_FRAMES = 5
MELS = 40
MEL_PER_FRAME = 4


@dataclass(frozen=True, kw_only=True)
class MouthReading:
    """``opening_N`` and ``width_N`` in 0..1, ``heat_NHW`` logits of the mouth region at a quarter of the resolution."""

    opening_N: Tensor
    width_N: Tensor
    heat_NHW: Tensor

    def centre_N2(self, height: int, width: int) -> Tensor:
        """The mouth's centre (y, x) in pixels of a ``height`` x ``width`` frame: the mean of the squared heat."""
        heat = self.heat_NHW.float().sigmoid().square() + 1e-6
        heat = heat / heat.sum((1, 2), keepdim=True)
        rows = (torch.arange(heat.shape[1], device=heat.device) + 0.5) * (height / heat.shape[1])
        columns = (torch.arange(heat.shape[2], device=heat.device) + 0.5) * (width / heat.shape[2])
        return torch.stack([(heat.sum(2) * rows).sum(1), (heat.sum(1) * columns).sum(1)], dim=-1)


class Stage(nn.Module):
    """Halve the resolution, then one residual convolution."""

    def __init__(self, in_channels: int, channels: int, stride: int = 2) -> None:
        super().__init__()
        self.down = nn.Conv2d(in_channels, channels, 3, stride, 1)
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        x = F.silu(self.norm1(self.down(x_NCHW)))
        return x + F.silu(self.norm2(self.conv(x)))


def _stages(in_channels: int, widths: tuple[int, ...]) -> nn.Sequential:
    return nn.Sequential(*(Stage(a, b) for a, b in zip((in_channels, *widths), widths, strict=False)))


class MouthJudge(nn.Module):
    """Opening and width of the mouth of one frame, and where the mouth is.

    The opening is read from features gathered under the predicted mouth region, so a small mouth is not averaged away;
    features of the whole frame stand beside them, because the opening is relative to the face's size.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.fine = _stages(3, (width, 2 * width))
        self.coarse = _stages(2 * width, (3 * width, 4 * width, 4 * width))
        self.lateral = nn.Conv2d(4 * width, 2 * width, 1)
        self.merge = Stage(2 * width, 2 * width, stride=1)
        self.heat = nn.Conv2d(2 * width, 1, 1)
        self.read = nn.Sequential(nn.Linear(6 * width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 2))

    def forward(self, x_NCHW: Tensor) -> MouthReading:
        fine = self.fine(x_NCHW * 2 - 1)
        coarse = self.coarse(fine)
        context = F.interpolate(self.lateral(coarse), fine.shape[-2:], mode="bilinear", align_corners=False)
        merged = self.merge(fine + context)
        heat = self.heat(merged)[:, 0]
        # The region is taken as given where the opening is read: the opening's error must not move the region.
        weight = heat.detach().float().sigmoid() + 1e-4
        weight = weight / weight.sum((1, 2), keepdim=True)
        local = (merged.float() * weight[:, None]).sum((2, 3))
        reading = self.read(torch.cat([local.to(coarse.dtype), coarse.mean((2, 3))], dim=-1)).float().sigmoid()
        return MouthReading(opening_N=reading[:, 0], width_N=reading[:, 1], heat_NHW=heat.float())


class IdentityJudge(nn.Module):
    """Who it is: a unit vector from one or several images of the same person."""

    def __init__(self, width: int = 32, embedding: int = 128) -> None:
        super().__init__()
        self.backbone = _stages(3, (width, 2 * width, 4 * width, 6 * width))
        self.project = nn.Sequential(nn.Linear(12 * width, 6 * width), nn.SiLU(), nn.Linear(6 * width, embedding))

    def forward(self, *groups_BKCHW: Tensor) -> tuple[Tensor, ...]:
        """For every group of K images per person one embedding per person, (B, D) of unit length."""
        return tuple(self._embed(x) for x in groups_BKCHW)

    def _embed(self, x_BKCHW: Tensor) -> Tensor:
        features = self.backbone(x_BKCHW.flatten(0, 1) * 2 - 1)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=-1)
        embedded = self.project(pooled).float().unflatten(0, x_BKCHW.shape[:2]).mean(1)
        return F.normalize(embedded, dim=-1)


class AttributeJudge(nn.Module):
    """One classifier per attribute from a few frames of one clip; ``sizes`` maps attribute -> number of values."""

    def __init__(self, sizes: dict[str, int], width: int = 32) -> None:
        super().__init__()
        self.backbone = _stages(3, (width, 2 * width, 4 * width, 6 * width))
        self.mix = nn.Sequential(nn.Linear(12 * width, 8 * width), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(8 * width, size) for name, size in sizes.items()})

    def forward(self, x_BKCHW: Tensor) -> dict[str, Tensor]:
        """Logits (B, size) per attribute, from the mean over K frames."""
        features = self.backbone(x_BKCHW.flatten(0, 1) * 2 - 1)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=-1)
        mixed = self.mix(pooled).unflatten(0, x_BKCHW.shape[:2]).mean(1)
        return {name: head(mixed).float() for name, head in self.heads.items()}


class SyncJudge(nn.Module):
    """SyncNet's idea: mouth crops of five frames and the 0.2 s of sound at the same time get nearby unit vectors."""

    def __init__(self, width: int = 32, embedding: int = 128) -> None:
        super().__init__()
        self.picture = _stages(3 * SYNC_FRAMES, (2 * width, 3 * width, 4 * width))
        self.picture_out = nn.Linear(4 * width * (MOUTH_CROP // 8) ** 2, embedding)
        self.sound = nn.Sequential(
            nn.Conv1d(MELS, 4 * width, 3, padding=1), nn.SiLU(),
            nn.Conv1d(4 * width, 4 * width, 3, 2, 1), nn.SiLU(),
            nn.Conv1d(4 * width, 4 * width, 3, padding=1), nn.SiLU(),
        )  # fmt: skip
        self.sound_out = nn.Linear(4 * width * SYNC_FRAMES * MEL_PER_FRAME // 2, embedding)

    def forward(self, crops_NCHW: Tensor, mel_NMS: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (N, D) of picture windows (N, 15, H, W) in [0, 1] and of sound windows (N, 40, 20)."""
        picture = self.picture_out(self.picture(crops_NCHW * 2 - 1).flatten(1))
        sound = self.sound_out(self.sound(mel_NMS).flatten(1))
        return F.normalize(picture.float(), dim=-1), F.normalize(sound.float(), dim=-1)


class Judges(nn.Module):
    """Several judges that learn together without sharing a weight; names as in ``config.JUDGE_NAMES``."""

    def __init__(self, names: tuple[str, ...], attribute_sizes: dict[str, int], width: int = 32) -> None:
        super().__init__()
        makers = {
            "mouth": lambda: MouthJudge(width),
            "identity": lambda: IdentityJudge(width),
            "attributes": lambda: AttributeJudge(attribute_sizes, width),
            "sync": lambda: SyncJudge(width),
        }
        for name in names:
            self.add_module(name, makers[name]())

    def forward(self, inputs: dict[str, tuple[Tensor, ...]]) -> dict[str, object]:
        """Run each named judge on its own inputs."""
        return {name: self.get_submodule(name)(*tensors) for name, tensors in inputs.items()}
