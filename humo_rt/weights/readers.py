"""Open checkpoint files of every published format without copying them into memory.

Gives each tensor a name, a shape, a stored dtype and a way to read it. Files stay on disk (memory-mapped) until a
tensor is asked for. Knows file formats only: nothing about models, devices or what a name means.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LARGEST_HEADER = 100_000_000
_DOWNLOAD_AGAIN = "delete it and download it again"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor on disk. ``read()`` gives it on the CPU, memory-mapped where the format allows.

    ``scale`` is the factor that fp8 files keep beside a weight: the weight's value is the product of both.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    file: Path | None = None
    scale: StoredTensor | None = None

    @property
    def nbytes(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count * self.dtype.itemsize


def stored(tensor: Tensor) -> StoredTensor:
    """Wrap a tensor that is in memory already."""
    return StoredTensor(tuple(tensor.shape), tensor.dtype, lambda: tensor)


def read_checkpoint(files: Path | Sequence[Path]) -> dict[str, StoredTensor]:
    """Open one file, a list of shards, or a safetensors ``*.index.json``; returns the tensors by stored name.

    Raises ``ValueError`` naming the file when one is missing, cut short, foreign, or a pickle that could run code.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in [files] if isinstance(files, Path) else files:
        for name, tensor in _open(path).items():
            if name in tensors:
                raise ValueError(
                    f"{path}: tensor {name!r} is also in {tensors[name].file}: keep only the shards of one checkpoint"
                )
            tensors[name] = tensor
    return tensors


def read_tensor(path: Path) -> Tensor:
    """Read a file that holds one bare tensor, such as ``zero_vae_129frame.pt``."""
    content = _load_zip(path) if _kind(path) == "zip" else None
    if not isinstance(content, Tensor):
        raise ValueError(f"{path}: expected a torch.save file with a single tensor: {_DOWNLOAD_AGAIN}")
    return content


def _open(path: Path) -> dict[str, StoredTensor]:
    if path.name.endswith(".index.json"):
        return _open_index(path)
    kind = _kind(path)
    if kind == "zip":
        return _open_zip(path)
    if kind == "safetensors":
        return _open_safetensors(path)
    raise ValueError(f"{path}: {kind}")


def _kind(path: Path) -> str:
    """``"zip"`` or ``"safetensors"``; for anything else a sentence that says what the file is and what to do."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}): check its permissions") from error
    if head.startswith(b"PK"):
        return "zip"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the weights: run `git lfs pull` or download the file with `hf download`"
    if head.startswith(b"GGUF"):
        return "GGUF (quantised) weights are not supported yet: use the safetensors or .pth file"
    if len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= _LARGEST_HEADER:
        return "safetensors"
    if head.startswith(b"\x80"):
        return (
            "a legacy pickle, which cannot be memory-mapped and may run code when opened: "
            "save it again with torch.save from a current torch, or use a safetensors file"
        )
    if not head:
        return f"the file is empty: {_DOWNLOAD_AGAIN}"
    return f"not a checkpoint (neither safetensors nor torch.save): {_DOWNLOAD_AGAIN}"


def _open_index(path: Path) -> dict[str, StoredTensor]:
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a safetensors index with a 'weight_map': {_DOWNLOAD_AGAIN}") from error
    absent = [shard for shard in shards if not (path.parent / shard).is_file()]
    if absent:
        raise ValueError(
            f"{path.parent}: {len(absent)} of {len(shards)} shards are missing, first {absent[0]}: download them again"
        )
    tensors = read_checkpoint([path.parent / shard for shard in shards])
    lost = [name for name in weight_map if name not in tensors]
    if lost:
        raise ValueError(f"{path}: {len(lost)} listed tensors are in no shard, first {lost[0]}: {_DOWNLOAD_AGAIN}")
    return tensors


def _open_safetensors(path: Path) -> dict[str, StoredTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        handle = safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cut short or damaged ({error}): {_DOWNLOAD_AGAIN}") from error

    def reader(name: str) -> Callable[[], Tensor]:
        return lambda: handle.get_tensor(name)

    tensors = {}
    for name, (shape, code) in _safetensors_header(path).items():
        if code not in _SAFETENSORS_DTYPES:
            raise ValueError(f"{path}: tensor {name!r} has dtype {code}, which is not supported: use bf16 or fp16")
        tensors[name] = StoredTensor(shape, _SAFETENSORS_DTYPES[code], reader(name), path)
    return tensors


def _safetensors_header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype code of every tensor. The library has checked the header against the file before."""
    with path.open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return {name: (tuple(entry["shape"]), entry["dtype"]) for name, entry in header.items() if name != "__metadata__"}


def _open_zip(path: Path) -> dict[str, StoredTensor]:
    content = _load_zip(path)
    if isinstance(content, Mapping) and isinstance(content.get("model_state_dict"), Mapping):
        content = content["model_state_dict"]  # openai's own Whisper files wrap the tensors
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected a dict of names to tensors")
    strange = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise ValueError(
            f"{path}: expected a flat dict of tensors, but {len(strange)} of {len(content)} entries are not "
            f"(first {str(strange[0])!r}): save only the model's state dict"
        )
    return {
        name: StoredTensor(tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor, path)
        for name, tensor in content.items()
    }


def _load_zip(path: Path) -> object:
    try:
        return torch.load(os.fspath(path), map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: contains more than tensors, and loading it could run code: save only the state dict again"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: cut short or damaged, torch.load cannot read it: {_DOWNLOAD_AGAIN}") from error
