"""Encode a pool by several processes on one device: drawing is bound by the host, so one process leaves a GPU idle.

Each worker opens the source and the frozen networks itself and leaves its share in a file; the parent joins them. Knows
nothing of what a clip is.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.multiprocessing
from safetensors.torch import load_file, save_file

from humo_rt.config import ModelConfig
from training.tasks.encode_pool import EncodeConfig, Share, assemble, encode_share
from training.tasks.frozen import Frozen, load_frozen
from training.tasks.pool import LatentPool
from training.tasks.sources import ClipSize, SourceConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a worker needs to know; it is sent to another process."""

    source: SourceConfig
    size: ClipSize
    model: ModelConfig
    weights: str
    encoder_precision: str
    encode: EncodeConfig
    device: torch.device


def encode_with_workers(job: Job, frozen: Frozen) -> LatentPool:
    """Encode all clips of ``job.source`` by ``job.encode.workers`` processes; the same pool as by one."""
    start = time.monotonic()
    source = job.source.open("train", None, job.size, job.device)
    source.clips([0])  # what takes long and is kept in files, speech above all, is made once
    workers = min(job.encode.workers, len(source))
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_work, (job, workers, len(source), folder), nprocs=workers)
        shares = [_read(Path(folder), rank, job.device) for rank in range(workers)]
    whole = Share(
        {name: torch.cat([share.tensors[name] for share in shares]) for name in shares[0].tensors},
        [captions for share in shares for captions in share.named],
        [captions for share in shares for captions in share.anonymous],
    )
    pool = assemble(whole, frozen, job.model.dit.text_len)
    logger.info("%d clips in %.0f s, %.1f GB", len(pool), time.monotonic() - start, pool.nbytes() / 1e9)
    return pool


def _work(rank: int, job: Job, workers: int, count: int, folder: str) -> None:
    logging.basicConfig(format=f"%(asctime)s worker {rank}: %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    frozen = load_frozen(job.model, Path(job.weights), job.device, getattr(torch, job.encoder_precision))
    source = job.source.open("train", None, job.size, job.device)
    own = range(rank * count // workers, (rank + 1) * count // workers)
    share = encode_share(source, frozen, job.encode, own)
    tensors = {name: value.contiguous().cpu() for name, value in share.tensors.items()}
    save_file(tensors, Path(folder) / f"{rank}.safetensors")
    (Path(folder) / f"{rank}.json").write_text(json.dumps([share.named, share.anonymous]))


def _read(folder: Path, rank: int, device: torch.device) -> Share:
    tensors = load_file(folder / f"{rank}.safetensors", device=str(device))
    return Share(tensors, *json.loads((folder / f"{rank}.json").read_text()))
