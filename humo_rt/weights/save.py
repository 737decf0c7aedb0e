"""Write checkpoints in the layouts the published ones have, so that what is trained here loads like the release.

Files are written under a temporary name and renamed, the index last: a reader never sees half a checkpoint. Knows
file layouts only; the caller decides names and dtypes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

PublishedLayout = Literal["HuMo-17B", "HuMo-1.7B", "file"]

_SHARD_BYTES = 5 * 1024**3


def save_published(
    state_dict: Mapping[str, Tensor],
    path: Path,
    layout: PublishedLayout,
    *,
    shard_bytes: int = _SHARD_BYTES,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write ``state_dict`` (published names) and return the file to load it from.

    ``"HuMo-17B"``: ``path/HuMo-17B/humo-*.safetensors`` with ``humo.safetensors.index.json``. ``"HuMo-1.7B"``:
    ``path/HuMo-1.7B/ema.pth``. ``"file"``: ``path`` itself is one safetensors file. ``metadata`` goes into the
    safetensors headers. Existing files of the same names are replaced. ``ValueError`` for an unknown layout.
    """
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in state_dict.items()}
    if layout == "file":
        _write_safetensors(tensors, path, metadata)
        return path
    if layout == "HuMo-1.7B":
        target = path / layout / "ema.pth"
        _replace(target, lambda temporary: torch.save(dict(tensors), temporary))
        return target
    if layout == "HuMo-17B":
        return _write_shards(tensors, path / layout, shard_bytes, metadata)
    raise ValueError(f"unknown layout {layout!r}: choose HuMo-17B, HuMo-1.7B or file")


def _write_shards(
    tensors: Mapping[str, Tensor], folder: Path, shard_bytes: int, metadata: Mapping[str, str] | None
) -> Path:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"humo-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_safetensors(shard, folder / file, metadata)
        weight_map.update(dict.fromkeys(shard, file))
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1)
    target = folder / "humo.safetensors.index.json"
    _replace(target, lambda temporary: temporary.write_text(index, encoding="utf-8"))
    return target


def _write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None) -> None:
    from safetensors.torch import save_file

    # "format" is what transformers and diffusers look for before they accept a safetensors file.
    header = {"format": "pt", **(metadata or {})}
    _replace(path, lambda temporary: save_file(dict(tensors), temporary, metadata=header))


def _replace(target: Path, write: Callable[[Path], object]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        write(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
