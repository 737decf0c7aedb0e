"""A pool too large for the device: encoded clips in files, mapped into memory, moved over batch by batch.

Knows files of encoded clips; each is a ``LatentPool`` on the CPU. Encoding skips the files that are there already, so
an interrupted encoding goes on where it stopped, and several processes share the work. They wait for each other's files
and not at a barrier: one may need many minutes more than another, and NCCL takes who is ten minutes late for lost.
"""

from __future__ import annotations

import bisect
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from training.clips import Clips, ClipSource, Keyed
from training.tasks.choice import Choice
from training.tasks.pool import Batch, LatentPool, identity_of

logger = logging.getLogger(__name__)

POLL = 1.0  # seconds between looks for a file of another process


@dataclass(frozen=True)
class HostPool:
    """Several pools on the CPU as one; ``gather`` hands batches to ``device``."""

    shards: tuple[LatentPool, ...]
    device: torch.device

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    @property
    def heard_N(self) -> Tensor:
        """Which clips have sound."""
        return torch.cat([shard.heard_N for shard in self.shards])

    def gather(self, choice: Choice, *, frames: int, slots: int, with_audio: bool) -> Batch:
        """As ``LatentPool.gather``."""
        ends = list(itertools.accumulate(map(len, self.shards)))
        rows = []
        for row, clip in enumerate(choice.clip_B.tolist()):
            number = bisect.bisect_right(ends, clip)
            within = clip - (ends[number - 1] if number else 0)
            one = {field.name: getattr(choice, field.name)[row : row + 1] for field in fields(choice)}
            alone = Choice(**{**one, "clip_B": torch.tensor([within])})
            rows.append(self.shards[number].gather(alone, frames=frames, slots=slots, with_audio=with_audio))
        columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(Batch)}
        return Batch(
            **{
                name: None if values[0] is None else torch.cat(values).to(self.device, non_blocking=True)
                for name, values in columns.items()
            }
        )


@dataclass(frozen=True)
class Part:
    """Some clips of a source, as a source."""

    source: ClipSource
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def clips(self, indices: Sequence[int]) -> Clips:
        return self.source.clips([self.start + index for index in indices])

    def keys(self, indices: Sequence[int]) -> list[str]:
        """Of a source without keys, the numbers of its clips."""
        numbers = [self.start + index for index in indices]
        return self.source.keys(numbers) if isinstance(self.source, Keyed) else list(map(str, numbers))


def encode_to_files(
    source: ClipSource,
    encode: Callable[[ClipSource], LatentPool],
    folder: Path,
    identity: Callable[[ClipSource], str],
    device: torch.device,
    *,
    clips_per_file: int,
    rank: int = 0,
    world_size: int = 1,
) -> HostPool:
    """Encode ``source`` into files of ``clips_per_file`` clips below ``folder``, those that are missing or outdated.

    ``encode`` turns a source into a pool; ``identity`` names what decides the pool's contents. Returns when all files
    are there, those of other processes, which have to see the same folder, too.
    """
    starts = range(0, len(source), clips_per_file)
    parts = {
        folder / f"clips-{start:08d}.safetensors": Part(source, start, min(start + clips_per_file, len(source)))
        for start in starts
    }
    for path, part in list(parts.items())[rank::world_size]:
        if LatentPool.load(path, identity(part), torch.device("cpu")) is None:
            encode(part).save(path, identity(part))
            logger.info("wrote %s", path)
    for path, part in parts.items():
        _wait_for(path, identity(part))
    return HostPool(tuple(LatentPool.read(path, torch.device("cpu")) for path in parts), device)


def _wait_for(path: Path, identity: str) -> None:
    """Until another process has written ``path``."""
    if identity_of(path) == identity:
        return
    logger.info("waiting for %s: another process writes it, and has to see the same folder", path)
    while identity_of(path) != identity:
        time.sleep(POLL)
