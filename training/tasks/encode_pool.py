"""From clips to the latent pool: every clip goes once through the frozen networks.

Knows how a clip becomes latents, masks on the latent grid, audio features and caption rows. Each process of a run
encodes its share of the clips; afterwards all hold the whole pool. Workers of one process: ``encode_workers``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from humo_rt.conditions.face import mask_to_latent_grid
from humo_rt.config import SPATIAL_STRIDE, TEMPORAL_STRIDE
from training.clips import Clips, ClipSource, to_unit_range
from training.config import require_at_least
from training.tasks.frozen import Frozen
from training.tasks.pool import LatentPool

logger = logging.getLogger(__name__)

_LOG_SECONDS = 15.0
_TEXT_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """How the pool is encoded: clips per batch, and the precision of the autoencoder's products on a GPU.

    ``workers``: processes that draw and encode beside each other on one device, which waits for the host otherwise.
    """

    clips_per_batch: int = 32
    workers: int = 1
    precision: Literal["float16", "bfloat16", "float32"] = "float16"

    def __post_init__(self) -> None:
        require_at_least(1, clips_per_batch=self.clips_per_batch, workers=self.workers)


@dataclass(frozen=True)
class Share:
    """Some clips as the tensors of a pool, and their captions of either kind."""

    tensors: dict[str, Tensor]
    named: list[list[str]]
    anonymous: list[list[str]]


def encode_pool(
    source: ClipSource, frozen: Frozen, config: EncodeConfig, *, text_len: int, rank: int = 0, world_size: int = 1
) -> LatentPool:
    """Encode all of ``source``. ``ValueError`` when it has fewer clips than there are processes."""
    if len(source) < world_size:
        raise ValueError(f"{len(source)} clips are too few for {world_size} processes: give each at least one")
    share = -(-len(source) // world_size)
    # Shares of equal size; the surplus of the last ones wraps around and is cut off after the exchange.
    own = [index % len(source) for index in range(rank * share, (rank + 1) * share)]
    start = time.monotonic()
    encoded = encode_share(source, frozen, config, own)
    tensors, named, anonymous = encoded.tensors, encoded.named, encoded.anonymous
    if world_size > 1:
        tensors = {name: _gather(value)[: len(source)].clone() for name, value in tensors.items()}
        named, anonymous = (_gather_lists(lists)[: len(source)] for lists in (named, anonymous))
    pool = assemble(Share(tensors, named, anonymous), frozen, text_len)
    logger.info("%d clips in %.0f s, %.1f GB", len(pool), time.monotonic() - start, pool.nbytes() / 1e9)
    return pool


def encode_share(source: ClipSource, frozen: Frozen, config: EncodeConfig, own: Sequence[int]) -> Share:
    """Encode the clips with the numbers ``own``."""
    start = said = time.monotonic()
    parts, named, anonymous = [], [], []
    for first in range(0, len(own), config.clips_per_batch):
        clips = source.clips(own[first : first + config.clips_per_batch])
        parts.append(_encode(clips, frozen, config))
        named += clips.captions
        anonymous += clips.captions_anonymous
        if time.monotonic() - said > _LOG_SECONDS:
            said = time.monotonic()
            logger.info("encoded %d of %d clips in %.0f s", first + len(clips), len(own), said - start)
    return Share({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, named, anonymous)


def assemble(share: Share, frozen: Frozen, text_len: int) -> LatentPool:
    """The pool of all clips in ``share``, with the features of every distinct caption."""
    rows = _caption_rows(share.named, share.anonymous)
    table = _encode_texts(rows.texts, frozen, text_len)
    device = table.device
    return LatentPool(
        **share.tensors, text_ULE=table, named_NV=rows.named.to(device), anonymous_NV=rows.anonymous.to(device)
    )


@torch.no_grad()
def _encode(clips: Clips, frozen: Frozen, config: EncodeConfig) -> dict[str, Tensor]:
    """One batch of clips as the tensors of a pool."""
    device = clips.video_BFCHW.device
    references = clips.references_BRCHW
    dtype = getattr(torch, config.precision)
    with torch.autocast(device.type, dtype, enabled=device.type == "cuda" and dtype != torch.float32):
        latents = frozen.vae.encode(to_unit_range(clips.video_BFCHW).transpose(1, 2))
        alone = frozen.vae.encode(to_unit_range(references.flatten(0, 1))[:, :, None])
    audio = frozen.audio.embed_batch(clips.audio_BS)  # outside: half precision would spoil the mel filters
    return {
        "latents_NCTHW": latents.half(),
        "references_NCRHW": alone[:, :, 0].unflatten(0, references.shape[:2]).transpose(1, 2).half(),
        "audio_NFBA": audio.half(),
        "heard_N": clips.has_audio_B.to(device),
        "face_NTHW": _grid(clips.face_BFHW, latents, mask_to_latent_grid),
        "mouth_NTHW": _grid(clips.mouth_BFHW, latents, touched_cells),
        "masked_N": torch.full((len(clips),), clips.face_BFHW is not None, device=device),
    }


def touched_cells(mask_BFHW: Tensor) -> Tensor:
    """Latent cells with any marked pixel in any frame they stand for: (B, 4n+1, H, W) to (B, n+1, H/8, W/8)."""
    cells = F.max_pool2d(mask_BFHW.float(), SPATIAL_STRIDE)
    rest = cells[:, 1:].unflatten(1, (-1, TEMPORAL_STRIDE)).amax(dim=2)
    return torch.cat([cells[:, :1], rest], dim=1)


def _grid(mask_BFHW: Tensor | None, latents_BCTHW: Tensor, to_grid: Callable[[Tensor], Tensor]) -> Tensor:
    """The mask on the latent grid as bool; a source without masks marks nothing."""
    if mask_BFHW is None:
        return torch.zeros_like(latents_BCTHW[:, 0], dtype=torch.bool)
    return to_grid(mask_BFHW).bool()


@dataclass(frozen=True)
class _CaptionRows:
    texts: list[str]
    named: Tensor
    anonymous: Tensor


def _caption_rows(named: Sequence[list[str]], anonymous: Sequence[list[str]]) -> _CaptionRows:
    """Distinct captions (first the empty prompt) and, for every clip, the rows of its variants, cycled to one count.

    A clip without anonymous captions uses its others.
    """
    rows: dict[str, int] = {"": 0}
    variants = max(max(map(len, named)), max(map(len, anonymous)), 1)

    def cycled(captions: list[str]) -> list[int]:
        known = [rows.setdefault(caption, len(rows)) for caption in captions] or [0]
        return [known[i % len(known)] for i in range(variants)]

    named_NV = torch.tensor([cycled(captions) for captions in named])
    anonymous_NV = torch.tensor([cycled(a or n) for a, n in zip(anonymous, named, strict=True)])
    return _CaptionRows(list(rows), named_NV, anonymous_NV)


def _encode_texts(texts: list[str], frozen: Frozen, text_len: int) -> Tensor:
    """Features of every text, zero behind its end: (U, text_len, E) half precision."""
    features = frozen.text.encode(texts, batch_size=_TEXT_BATCH)
    table = features[0].new_zeros((len(texts), text_len, features[0].shape[1]), dtype=torch.float16)
    for row, feature in zip(table, features, strict=True):
        row[: feature.shape[0]] = feature
    return table


def _gather(own: Tensor) -> Tensor:
    plain = own.contiguous().view(torch.uint8) if own.dtype == torch.bool else own.contiguous()
    everyone = plain.new_empty((dist.get_world_size() * own.shape[0], *own.shape[1:]))
    dist.all_gather(list(everyone.chunk(dist.get_world_size())), plain)
    return everyone.view(own.dtype)


def _gather_lists(own: list[list[str]]) -> list[list[str]]:
    everyone: list[list[list[str]] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    return [captions for part in everyone for captions in part]
