"""The rendered pictures that all judges of a process learn from: rendered once, kept on the device as bytes.

Mouth and sound need moving clips; who it is and how they look need many different people, so those come from stills.
Knows the procedural generator and what a judge needs from it. 1,024 clips of 97 frames at 128x128 take about 5 GiB.

Shape legend: N clips or stills of the pool, F frames, C channels, H height, W width, M mel bands, T mel frames.
"""

from __future__ import annotations

import functools
import logging
import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.judges.config import PoolConfig
from training.judges.networks import HEAT_STRIDE
from training.judges.windows import log_mel, smooth_centres

if TYPE_CHECKING:
    from training.data.procedural import ClipBatch, SpeechBank

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Clips:
    """``video`` is uint8, ``heat`` the mouth region in 0..1, ``centre`` (y, x) in pixels, opening and width 0..1."""

    video_NFCHW: Tensor
    heat_NFHW: Tensor
    centre_NF2: Tensor
    opening_NF: Tensor
    width_NF: Tensor
    mel_NMT: Tensor


@dataclass(frozen=True, kw_only=True)
class Stills:
    """Two uint8 pictures of each person, in different clothes and places; ``attributes`` describe ``image``."""

    image_NCHW: Tensor
    reference_NCHW: Tensor
    identity_N: Tensor
    attributes: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Everything on one device."""

    clips: Clips
    stills: Stills


@functools.lru_cache(maxsize=1)
def rendered_pool(config: PoolConfig, device: torch.device) -> Pool:
    """Render the pool, or return the one this process has already rendered from the same ``config``."""
    from training.data.procedural import ProceduralClips

    start = time.perf_counter()
    size = {"height": config.height, "width": config.width, "device": device, "speech": _speech(config)}
    moving = ProceduralClips(
        config.seed, split="train", num_frames=config.num_frames, augment_audio=config.augment_audio, **size
    )
    still = ProceduralClips(config.seed, split="train", num_frames=1, **size)
    pool = Pool(
        clips=_joined([_clips(moving.sample(part)) for part in _parts(config.clips, config.chunk)]),
        stills=_joined([_stills(still.sample(part)) for part in _parts(config.stills, 8 * config.chunk)]),
    )
    logger.info("%d clips and %d stills rendered in %.1f s", config.clips, config.stills, time.perf_counter() - start)
    return pool


def _clips(batch: ClipBatch) -> Clips:
    mask = batch.mouth_mask.float()
    heat = F.avg_pool2d(mask.flatten(0, 1)[:, None], HEAT_STRIDE)[:, 0].unflatten(0, mask.shape[:2])
    return Clips(
        video_NFCHW=batch.video,
        heat_NFHW=heat.half(),
        centre_NF2=smooth_centres(mask_centres(mask)),
        opening_NF=batch.mouth_open.float(),
        width_NF=(batch.mouth_shape[..., 0].float() + 1) / 2,
        mel_NMT=log_mel(batch.audio, batch.video.shape[1]),
    )


def _stills(batch: ClipBatch) -> Stills:
    return Stills(
        image_NCHW=batch.video[:, 0],
        reference_NCHW=batch.reference[:, 0],
        identity_N=batch.identity,
        attributes=dict(batch.attributes),
    )


def mask_centres(mask_BFHW: Tensor) -> Tensor:
    """Centre (y, x) of each frame's mask in pixels, (B, F, 2); an empty mask gives the picture's centre."""
    height, width = mask_BFHW.shape[-2:]
    mask = mask_BFHW.float()
    weight = mask.sum((2, 3)).clamp(min=1e-6)
    rows = (mask.sum(3) * (torch.arange(height, device=mask.device) + 0.5)).sum(2) / weight
    columns = (mask.sum(2) * (torch.arange(width, device=mask.device) + 0.5)).sum(2) / weight
    middle = torch.tensor([height / 2, width / 2], device=mask.device)
    return torch.where(weight[..., None] > 0.5, torch.stack([rows, columns], dim=-1), middle)


def _speech(config: PoolConfig) -> SpeechBank:
    from training.data.procedural import SpeechBank

    if config.speech:
        return SpeechBank.load(config.speech)
    return SpeechBank.build(
        config.utterances,
        seed=config.seed,
        split="train",
        num_frames=config.num_frames,
        natural_share=config.natural_share,
    )


def _parts(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _joined(parts: list[Any]) -> Any:
    """Concatenate the tensors of several ``Clips`` or ``Stills``."""

    def column(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        if isinstance(values[0], dict):
            return {key: torch.cat([value[key] for value in values]) for key in values[0]}
        return torch.cat(values)

    return type(parts[0])(**{field.name: column(field.name) for field in fields(parts[0])})
