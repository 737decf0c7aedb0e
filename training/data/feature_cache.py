"""Encoded clips on disk: each goes through the frozen networks once, and an interrupted run goes on where it was.

One safetensors file for each clip, named after a hash of its contents, in a folder named after the encoders. Files
appear whole or not at all, so several processes may fill one cache. Knows neither what the tensors mean nor how a clip
is encoded.

    fill(cache, source, range(len(source)), encode)
    tensors, captions, anonymous = cache.read(source.keys([3, 1, 4]), device)
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from training.clips import Clips, ClipSource

logger = logging.getLogger(__name__)

_LOG_SECONDS = 15.0

Encode = Callable[[Clips], dict[str, Tensor]]


class KeyedSource(ClipSource, Protocol):
    """Clips that can be told apart without decoding them."""

    def keys(self, indices: Sequence[int]) -> list[str]:
        """For every clip a name that changes with its contents."""
        ...


class FeatureCache:
    """``encoder`` is everything the features depend on besides the clip: weights and settings, as one string."""

    def __init__(self, folder: str | os.PathLike[str], encoder: str) -> None:
        self._folder = Path(folder) / hashlib.blake2b(encoder.encode(), digest_size=8).hexdigest()
        self._folder.mkdir(parents=True, exist_ok=True)
        _replace(self._folder / "encoder.txt", encoder.encode())

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def write(self, key: str, tensors: dict[str, Tensor], captions: list[str], anonymous: list[str]) -> None:
        """Keep the features of one clip, without a batch axis, and its captions."""
        from safetensors.torch import save

        words = json.dumps({"captions": captions, "anonymous": anonymous})
        path = self._path(key)
        path.parent.mkdir(exist_ok=True)
        stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        _replace(path, save(stored, metadata={"words": words}))

    def read(
        self, keys: Sequence[str], device: torch.device | str = "cpu"
    ) -> tuple[dict[str, Tensor], list[list[str]], list[list[str]]]:
        """Features of some clips stacked along a first axis, their captions, their anonymous captions.

        ``KeyError`` for a clip that was never written; ``RuntimeError`` names a damaged file.
        """
        from safetensors import SafetensorError, safe_open

        parts, captions, anonymous = [], [], []
        for key in keys:
            if key not in self:
                raise KeyError(f"clip {key} is not in {self._folder}: fill the cache first")
            try:
                with safe_open(self._path(key), framework="pt") as file:
                    words = json.loads(file.metadata()["words"])
                    parts.append({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
            except SafetensorError as error:
                raise RuntimeError(f"{self._path(key)} is damaged ({error}): delete it and fill the cache") from error
            captions.append(words["captions"])
            anonymous.append(words["anonymous"])
        stacked = {name: torch.stack([part[name] for part in parts]).to(device) for name in parts[0]}
        return stacked, captions, anonymous

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"


def fill(
    cache: FeatureCache, source: KeyedSource, indices: Sequence[int], encode: Encode, *, clips_per_batch: int = 8
) -> int:
    """Encode those of the clips that the cache does not hold, and return how many there were.

    ``encode`` returns tensors whose first axis is the clip.
    """
    missing = [(index, key) for index, key in zip(indices, source.keys(indices), strict=True) if key not in cache]
    start = said = time.monotonic()
    for first in range(0, len(missing), clips_per_batch):
        batch = missing[first : first + clips_per_batch]
        clips = source.clips([index for index, _ in batch])
        features = encode(clips)
        for row, (_, key) in enumerate(batch):
            one = {name: value[row] for name, value in features.items()}
            cache.write(key, one, clips.captions[row], clips.captions_anonymous[row])
        if time.monotonic() - said > _LOG_SECONDS:
            said = time.monotonic()
            logger.info("encoded %d of %d clips in %.0f s", first + len(batch), len(missing), said - start)
    return len(missing)


def _replace(path: Path, contents: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_bytes(contents)
    partial.replace(path)
