"""What each judge practises on: a batch from the rendered pool, and its loss.

A lesson draws ``inputs`` for its judge and targets for its loss; it knows nothing of steps, optimisers or the other
judges. Every picture a judge sees is degraded, and about a quarter only a little or not at all.

Shape legend: N images, B clips, K images or windows per clip, C channels, H height, W width, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from training.judges.augment import degrade
from training.judges.networks import MOUTH_CROP, SYNC_FRAMES, MouthReading
from training.judges.pool import Pool
from training.judges.windows import crop_windows, mel_windows

TEMPERATURE = 0.07
Batch = dict[str, Any]


class Lesson(Protocol):
    """``batch`` draws inputs and targets; ``loss`` judges the judge's answer and names scalars to log."""

    def batch(self, pool: Pool, generator: torch.Generator) -> Batch: ...

    def loss(self, answer: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]: ...


@dataclass(frozen=True, kw_only=True)
class MouthLesson:
    """Opening, width and place of the mouth in single frames."""

    images: int

    def batch(self, pool: Pool, generator: torch.Generator) -> Batch:
        clips = pool.clips
        count, length = clips.opening_NF.shape
        chosen = _integers(count, (self.images,), generator), _integers(length, (self.images,), generator)
        flip = _integers(2, (self.images,), generator) == 1
        return {
            "inputs": (_flip(_degraded(clips.video_NFCHW[chosen], generator), flip),),
            "heat": _flip(clips.heat_NFHW[chosen].float(), flip),
            "opening": clips.opening_NF[chosen],
            "width": clips.width_NF[chosen],
        }

    def loss(self, answer: MouthReading, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        opening = F.smooth_l1_loss(answer.opening_N, batch["opening"], beta=0.05)
        width = F.smooth_l1_loss(answer.width_N, batch["width"], beta=0.05)
        # A mouth covers about one percent of a frame; without the weight "nowhere" would be a good answer.
        weight = torch.full((), 10.0, device=opening.device)
        heat = F.binary_cross_entropy_with_logits(answer.heat_NHW, batch["heat"], pos_weight=weight)
        error = (answer.opening_N - batch["opening"]).abs().mean()
        return 10 * opening + 2 * width + heat, {"mouth/opening_error": error, "mouth/heat": heat}


@dataclass(frozen=True, kw_only=True)
class IdentityLesson:
    """Two pictures of a person (other clothes, background, pose) near each other, away from other people's."""

    people: int

    def batch(self, pool: Pool, generator: torch.Generator) -> Batch:
        stills = pool.stills
        chosen = _integers(len(stills.identity_N), (self.people,), generator)
        flips = _integers(2, (2, self.people), generator) == 1
        pairs = zip((stills.image_NCHW, stills.reference_NCHW), flips, strict=True)
        pictures = (_flip(_degraded(images[chosen], generator), flip)[:, None] for images, flip in pairs)
        return {"inputs": tuple(pictures), "identity": stills.identity_N[chosen]}

    def loss(self, answer: tuple[Tensor, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        same = batch["identity"][:, None] == batch["identity"]
        loss, right = contrast(*answer, ignore=same)
        return loss, {"identity/loss": loss, "identity/right": right}


@dataclass(frozen=True, kw_only=True)
class AttributeLesson:
    """Every attribute's value from one picture."""

    people: int

    def batch(self, pool: Pool, generator: torch.Generator) -> Batch:
        stills = pool.stills
        chosen = _integers(len(stills.identity_N), (self.people,), generator)
        flip = _integers(2, (self.people,), generator) == 1
        return {
            "inputs": (_flip(_degraded(stills.image_NCHW[chosen], generator), flip)[:, None],),
            "attributes": {name: values[chosen] for name, values in stills.attributes.items()},
        }

    def loss(self, answer: dict[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        targets = batch["attributes"]
        losses = [F.cross_entropy(answer[name], target) for name, target in targets.items()]
        right = [(answer[name].argmax(-1) == target).float().mean() for name, target in targets.items()]
        return torch.stack(losses).mean(), {"attributes/right": torch.stack(right).mean()}


@dataclass(frozen=True, kw_only=True)
class SyncLesson:
    """Mouth windows beside the sound of the same moment, among other moments and other clips."""

    clips: int
    windows: int

    def batch(self, pool: Pool, generator: torch.Generator) -> Batch:
        clips, device = pool.clips, generator.device
        count, length = clips.opening_NF.shape
        chosen = _integers(count, (self.clips,), generator)
        first, last = SYNC_FRAMES // 2, length - 1 - SYNC_FRAMES // 2
        # One window from each equal part of the clip: other moments of the same voice are the hard negatives.
        part = torch.arange(self.windows, device=device)
        place = (part + torch.rand(self.clips, self.windows, generator=generator, device=device)) / self.windows
        middle = (first + place * (last - first + 1)).long().clamp(first, last)
        shake = _integers(9, (self.clips, 1, 2), generator) - 4
        crops = crop_windows(clips.video_NFCHW, chosen, middle, clips.centre_NF2[chosen[:, None], middle] + shake)
        # The five frames of a window suffer alike: they are degraded as one tall picture.
        tall = crops.flatten(0, 1).unflatten(1, (SYNC_FRAMES, 3)).transpose(1, 2).flatten(2, 3)
        tall = degrade(tall, generator).unflatten(2, (SYNC_FRAMES, MOUTH_CROP))
        gain = torch.rand(self.clips, 1, 1, 1, generator=generator, device=device) * 0.3 - 0.15
        mel = mel_windows(clips.mel_NMT[chosen], middle) + gain
        return {"inputs": (tall.transpose(1, 2).flatten(1, 2), mel.flatten(0, 1))}

    def loss(self, answer: tuple[Tensor, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, right = contrast(*answer)
        return loss, {"sync/loss": loss, "sync/right": right}


def contrast(a_ND: Tensor, b_ND: Tensor, ignore: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """InfoNCE both ways between matching rows, and the share of rows whose match is nearest.

    ``ignore`` (N, N) marks pairs that are no negatives although they are not the row's own match.
    """
    with torch.autocast(a_ND.device.type, enabled=False):  # half precision would tie close rivals
        logits = (a_ND.float() @ b_ND.float().T) / TEMPERATURE
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    if ignore is not None:
        logits = logits.masked_fill(ignore & ~own, -1e4)
    target = torch.arange(len(logits), device=logits.device)
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    return loss, (logits.argmax(-1) == target).float().mean()


def _degraded(images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 pictures to degraded ones in [0, 1]."""
    return degrade(images_NCHW.float() / 255, generator)


def _flip(x: Tensor, flip_N: Tensor) -> Tensor:
    return torch.where(flip_N.reshape(-1, *[1] * (x.dim() - 1)), x.flip(-1), x)


def _integers(high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(high, shape, generator=generator, device=generator.device)
