"""The engine file: what an engine was built from and for, as one JSON header, then TensorRT's own plan.

TensorRT refuses a plan of another version or card with an internal error, or loads half a file. The header says which
engine this is before a byte of the plan is read, and holds the command that builds it again. Imports no TensorRT.

Layout: 8 bytes magic, 8 bytes length of the header, 4 bytes CRC-32 of the header, the header, zeros up to a multiple of
4096, the plan.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import mmap
import os
import shlex
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from humo_rt.config import SPATIAL_STRIDE
from humo_rt.tensorrt.profiles import Profile, model_of
from humo_rt.tensorrt.source import Origin
from humo_rt.tensorrt.spec import GraphSpec
from humo_rt.tensorrt.targets import CURRENT, Target, dotted

SUFFIX = ".engine"

_MAGIC = b"HUMO-TRT"
# Raised whenever a header written before could no longer be read.
_FORMAT = 2
_ALIGNMENT = 4096
_FIXED = struct.Struct("<8sQI")


@dataclass(frozen=True, kw_only=True)
class WeightBinding:
    """A weight that the engine takes as an input: its name in the ONNX file, ``torch`` dtype by name, and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class EngineHeader:
    """Everything that decides whether an engine can be used.

    ``origin``: the weights it was exported from. ``weights``: where they are, see ``humo_rt.tensorrt.weights.WEIGHTS``.
    ``onnx``: the file it was built from, ``onnx_sha256`` over that file and its weights. ``command``: builds the same
    engine again. ``plan_bytes``: length of the plan.
    """

    spec: GraphSpec
    origin: Origin
    profiles: tuple[Profile, ...]
    target: str
    capability: tuple[int, int]
    package: str
    package_version: str
    opset: int
    weights: str
    weight_bindings: tuple[WeightBinding, ...] = ()
    weight_streaming: bool = False
    onnx: str
    onnx_sha256: str
    command: tuple[str, ...]
    plan_bytes: int = 0

    @property
    def rebuild(self) -> str:
        """The command as a user types it."""
        return shlex.join(self.command)

    @property
    def card(self) -> Target:
        """What it runs on."""
        return Target(name=self.target, capability=self.capability, package=self.package)

    def to_json(self) -> str:
        own = {"spec": self.spec.to_json(), "origin": self.origin.to_json(), "format": _FORMAT}
        return json.dumps(dataclasses.asdict(self) | own, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, source: str) -> EngineHeader:
        """What ``to_json`` wrote; ``ValueError`` when another version did."""
        fields = json.loads(text)
        if fields.pop("format") != _FORMAT:
            raise ValueError(
                f"{source} was built by another version of humo-rt: rebuild it with {shlex.join(fields['command'])}"
            )
        bindings = (binding | {"shape": tuple(binding["shape"])} for binding in fields.pop("weight_bindings"))
        return cls(
            spec=GraphSpec.from_json(fields.pop("spec"), source),
            origin=Origin.from_json(fields.pop("origin")),
            profiles=tuple(Profile.from_dict(profile) for profile in fields.pop("profiles")),
            capability=tuple(fields.pop("capability")),
            command=tuple(fields.pop("command")),
            weight_bindings=tuple(WeightBinding(**binding) for binding in bindings),
            **fields,
        )


def file_name(header: EngineHeader) -> str:
    """Model, precision, largest sizes, card, package and a digest of the rest, so that no engine hides another."""
    model = model_of(header.spec.config)
    sizes = [profile.largest for profile in header.profiles]
    same = ("command", "onnx", "plan_bytes", "weight_bindings")  # where it lies, and what follows from the rest
    identity = {key: value for key, value in json.loads(header.to_json()).items() if key not in same}
    card = "sm{}{}".format(*header.capability) if header.target == CURRENT else header.target
    parts = [
        model.name if model else "custom",
        header.spec.precision,
        *(f"{size.width * SPATIAL_STRIDE}x{size.height * SPATIAL_STRIDE}" for size in sizes),
        f"{sizes[0].frames}f{sizes[0].branches}b",
        card,
        f"{header.package}-{header.package_version}",
        hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8],
    ]
    return "_".join(parts) + SUFFIX


def write_engine(path: Path, header: EngineHeader, plan: bytes | memoryview) -> EngineHeader:
    """Write header and plan under a temporary name, then rename; returns the header with the plan's length.

    ``RuntimeError`` when the disk is full or fails; nothing is left behind then.
    """
    header = dataclasses.replace(header, plan_bytes=len(plan))
    text = header.to_json().encode()
    with replacing(path) as file:
        start = _FIXED.size + len(text)
        file.write(_FIXED.pack(_MAGIC, len(text), zlib.crc32(text)) + text + bytes(-start % _ALIGNMENT))
        file.write(plan)
    return header


def read_header(path: Path) -> EngineHeader:
    """The header of an engine that is complete.

    ``ValueError`` for a file that is no engine of this project, is cut off, or has another version's layout.
    """
    with _opened(path) as file:
        return _read_header(file, path)[0]


@contextmanager
def mapped_plan(path: Path) -> Iterator[memoryview]:
    """The plan's bytes, mapped rather than read: TensorRT copies what it needs. Errors as ``read_header``."""
    with _opened(path) as file:
        header, start = _read_header(file, path)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            plan = view[start : start + header.plan_bytes]
            try:
                yield plan
            finally:
                plan.release()


def require_usable(
    header: EngineHeader, source: str, *, package_version: str, capability: tuple[int, int] | None
) -> None:
    """``ValueError`` with the command to run if the engine is for another TensorRT version or another card.

    ``capability``: the current GPU's; None skips that check.
    """
    if header.package_version != package_version:
        raise ValueError(
            f"{source} was built with {header.package} {header.package_version}, but {package_version} is installed: "
            f"rebuild it with {header.rebuild}"
        )
    if capability is not None and tuple(capability) != header.capability:
        raise ValueError(
            f"{source} was built for {header.card}, but this GPU has {dotted(capability)}: "
            f"rebuild it with {with_target(header.command, 'current')}"
        )


def with_target(command: Sequence[str], target: str) -> str:
    """The same command for another card."""
    changed = list(command)
    changed[changed.index("--target") + 1] = target
    return shlex.join(changed)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of ``path`` when the block ends well, and vanishes otherwise.

    ``RuntimeError`` naming the free space when the disk is full, the reason when it fails otherwise.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or error
        raise RuntimeError(f"cannot write {str(path)!r} ({reason}): free space, or choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if not path.is_file():
        raise ValueError(f"engine {str(path)!r} does not exist: build one with humo-rt build-engine")
    with path.open("rb") as file:
        yield file


def _read_header(file: BinaryIO, path: Path) -> tuple[EngineHeader, int]:
    """The header and where the plan starts."""
    size = os.fstat(file.fileno()).st_size
    fixed = file.read(_FIXED.size)
    if not fixed.startswith(_MAGIC):
        raise ValueError(
            f"{path} is no engine of humo-rt: build one with humo-rt build-engine dit.onnx --target ... -o {path}"
        )
    _, length, checksum = _FIXED.unpack(fixed) if len(fixed) == _FIXED.size else (_MAGIC, size, 0)
    if size < _FIXED.size + length:
        raise ValueError(f"{path} ends within its header: build it again with humo-rt build-engine, or copy it again")
    text = file.read(length)
    if zlib.crc32(text) != checksum:
        raise ValueError(f"the header of {path} is damaged: copy it again, or build it again with humo-rt build-engine")
    header = EngineHeader.from_json(text.decode(), str(path))
    start = -(-(_FIXED.size + length) // _ALIGNMENT) * _ALIGNMENT
    if size != start + header.plan_bytes:
        raise ValueError(
            f"{path} has {size} bytes instead of {start + header.plan_bytes}: copy it again, or rebuild it with "
            f"{header.rebuild}"
        )
    return header, start
