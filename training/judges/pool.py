"""The rendered clips that all judges of a process learn from: rendered once, kept on the device as bytes.

Knows the procedural generator and what a judge needs from it. One pool of 1,024 clips of 97 frames at 128x128 takes
about 5 GiB.

Shape legend: N clips of the pool, F frames, R references, H height, W width, M mel bands, T mel frames.
"""

from __future__ import annotations

import functools
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.judges.config import PoolConfig
from training.judges.networks import HEAT_STRIDE
from training.judges.windows import log_mel, smooth_centres

if TYPE_CHECKING:
    from training.data.procedural import SpeechBank

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Everything on one device; ``video`` and ``reference`` are uint8, ``heat`` is the mouth region in 0..1."""

    video_NFCHW: Tensor
    reference_NRCHW: Tensor
    heat_NFHW: Tensor
    centre_NF2: Tensor
    opening_NF: Tensor
    width_NF: Tensor
    mel_NMT: Tensor
    identity_N: Tensor
    attributes: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.video_NFCHW)


def pool_from_batch(batch: Any) -> Pool:
    """Reduce one rendered ``ClipBatch`` to what judges need."""
    mask = batch.mouth_mask.float()
    heat = F.avg_pool2d(mask.flatten(0, 1)[:, None], HEAT_STRIDE)[:, 0].unflatten(0, mask.shape[:2])
    return Pool(
        video_NFCHW=batch.video,
        reference_NRCHW=batch.reference,
        heat_NFHW=heat.half(),
        centre_NF2=smooth_centres(mask_centres(batch.mouth_mask)),
        opening_NF=batch.mouth_open.float(),
        width_NF=(batch.mouth_shape[..., 0].float() + 1) / 2,
        mel_NMT=log_mel(batch.audio, batch.video.shape[1]),
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


@functools.lru_cache(maxsize=1)
def rendered_pool(config: PoolConfig, device: torch.device) -> Pool:
    """Render the pool, or return the one this process has already rendered from the same ``config``."""
    from training.data.procedural import ProceduralClips

    start = time.perf_counter()
    clips = ProceduralClips(
        config.seed,
        split="train",
        height=config.height,
        width=config.width,
        num_frames=config.num_frames,
        device=device,
        speech=_speech(config),
        augment_audio=config.augment_audio,
    )
    parts = [
        pool_from_batch(clips.sample(list(range(first, min(first + config.chunk, config.clips)))))
        for first in range(0, config.clips, config.chunk)
    ]
    pool = _concatenate(parts)
    logger.info("%d clips for the judges spoken and rendered in %.1f s", len(pool), time.perf_counter() - start)
    return pool


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


def _concatenate(parts: list[Pool]) -> Pool:
    def joined(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        if isinstance(values[0], dict):
            return {key: torch.cat([value[key] for value in values]) for key in values[0]}
        return torch.cat(values)

    return Pool(**{name: joined(name) for name in Pool.__dataclass_fields__})
