"""What each sample of a micro-batch is: which clip, which caption, which conditions it goes without.

Everything is drawn on the CPU from the moment alone, so it is the same on every machine and after every resume.
Knows counts and probabilities; nothing of tensors on devices.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor

from training.task import Moment, derive_seed


@dataclass(frozen=True, kw_only=True)
class ConditionDrop:
    """Probabilities of training without a condition. ``image``, ``audio`` and ``image_and_audio`` exclude one another.

    The values are those of close relatives of HuMo, which does not disclose its own. ``everything`` (text, image and
    audio at once) gives the branch that guidance starts from more practice than independent draws would.
    """

    caption: float = 0.1
    image: float = 0.1
    audio: float = 0.1
    image_and_audio: float = 0.05
    everything: float = 0.0

    def __post_init__(self) -> None:
        total = self.image + self.audio + self.image_and_audio
        if min(self.caption, self.image, self.audio, self.image_and_audio, self.everything) < 0 or total > 1:
            raise ValueError(f"drop probabilities {self} must not be negative, image and audio ones sum to at most 1")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One entry per sample, on the CPU. ``caption`` and ``reference`` are in 0..1 and pick among what a clip has."""

    clip_B: Tensor
    caption_B: Tensor
    reference_B: Tensor
    anonymous_B: Tensor
    text_B: Tensor
    image_B: Tensor
    audio_B: Tensor

    def to(self, device: torch.device) -> Choice:
        """On ``device``, in one copy that the host does not wait for."""
        if device.type == "cpu":
            return self
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        packed = torch.stack([value.double() for value in own.values()]).pin_memory()
        arrived = packed.to(device, non_blocking=True)
        return Choice(**{name: row.to(own[name].dtype) for name, row in zip(own, arrived, strict=True)})


def choose(
    moment: Moment,
    count: int,
    clips: int,
    *,
    drop: ConditionDrop,
    anonymous: float,
    sync_B: Tensor | None = None,
    heard: Tensor | None = None,
) -> Choice:
    """Draw ``count`` samples from ``clips`` clips.

    Every clip is seen once before any is seen twice. ``anonymous`` is the share of captions that say nothing of the
    person. ``sync_B`` (bool) marks the samples that may carry audio; None means all. ``heard`` are the numbers of the
    clips that have sound; a sync sample that drew another clip takes one of these instead. None means all have.
    """
    draws = torch.rand(6, count, generator=moment.generator("cpu", "choice"))
    without_both = draws[0] < drop.image_and_audio
    without_image = without_both | _between(draws[0], drop.image_and_audio, drop.image)
    without_audio = without_both | _between(draws[0], drop.image_and_audio + drop.image, drop.audio)
    without_all = draws[1] < drop.everything
    without_text = without_all | _between(draws[1], drop.everything, drop.caption)
    may_speak = torch.ones(count, dtype=torch.bool) if sync_B is None else sync_B
    clip_B = clips_of(moment, count, clips)
    if heard is not None and len(heard):
        substitute_B = heard[(draws[5] * len(heard)).long().clamp_max(len(heard) - 1)]
        clip_B = torch.where(may_speak & ~torch.isin(clip_B, heard), substitute_B, clip_B)
    return Choice(
        clip_B=clip_B,
        caption_B=draws[2],
        reference_B=draws[3],
        anonymous_B=draws[4] < anonymous,
        text_B=~without_text,
        image_B=~(without_image | without_all),
        audio_B=may_speak & ~(without_audio | without_all),
    )


def clips_of(moment: Moment, count: int, clips: int) -> Tensor:
    """Clip numbers (count,) of a micro-batch: a fresh permutation of all clips for every pass over them."""
    positions = range(moment.index * count, (moment.index + 1) * count)
    return torch.stack([_permutation(moment.seed, p // clips, clips)[p % clips] for p in positions])


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, clips: int) -> Tensor:
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch, "clips"))
    return torch.randperm(clips, generator=generator)


def _between(draw: Tensor, start: float, width: float) -> Tensor:
    return (draw >= start) & (draw < start + width)
