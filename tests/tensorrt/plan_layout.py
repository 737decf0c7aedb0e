"""What a plan says of itself, read from its bytes: TensorRT opens a plan on a GPU only, and refuses it here.

The layout is not documented. It was found in plans of TensorRT for RTX 1.7.1, which constraints.txt names: tags of 32
bits before values, numbers of 32 bits, sizes of 64. Another version may write another one, and nothing is found then.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

import tensorrt_rtx
import torch

from humo_rt.tensorrt.network import torch_dtype

_NUMBER, _SIZES = rb"\x07\x80\x01\0", rb"\x09\x80\x01\0"
# A shape is its rank, -1 for none, and if it has one the number of its sizes, then these.
_RANK = re.compile(_NUMBER + rb"(?P<rank>.{4})(?:\x01\x80" + _SIZES + rb".{8})?", re.DOTALL)
_SHAPE_END = 2
_SHAPE, _SHAPES = rb"\x59\x80\x01\0", rb"\x59\x80\x01\0\x03\0{7}"

_TENSOR = re.compile(
    rb"\x0c\x80\x01\0.{8}(?P<name>[\w.]+)\x1c\x80\x01\0\x03\x80\x01\0."
    rb"\x0d\x80\x01\0" + _NUMBER + rb"(?P<dtype>.{4})\x03\x80\x01\0.\x01\x80"
    # Strides, of which a tensor has up to eight.
    + _SIZES + rb"\x08\0{7}.{64}" + _NUMBER + rb".{6}" + _SHAPE,
    re.DOTALL,
)  # fmt: skip

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output. ``shape``: -1 for a size that is free or follows from free ones."""

    dtype: torch.dtype
    shape: Shape


def tensors(plan: bytes) -> dict[str, Tensor]:
    """Inputs and outputs by name."""
    return {found["name"].decode(): _tensor(plan, found) for found in _TENSOR.finditer(plan)}


def limits(plan: bytes) -> list[tuple[Shape, ...]]:
    """Smallest, typical and largest shape of every input, one profile after the other."""
    found = (_shapes(plan, start.end(), 3) for start in re.finditer(_SHAPES, plan))
    return [shapes for shapes in found if None not in shapes]


def architectures(plan: bytes) -> set[str]:
    """What the plan's kernels are for, such as ``sm120``; parts for no architecture in particular say ``*``."""
    return {text.decode().strip() for text in re.findall(rb"accelerators=\{([^}]*)\}", plan)}


def settings(plan: bytes, name: str) -> set[str]:
    """Every value that the plan's parts have of the setting ``name``."""
    return {text.decode() for text in re.findall(rb"  %s=(\S+)" % name.encode(), plan)}


def _tensor(plan: bytes, found: re.Match[bytes]) -> Tensor:
    (code,) = struct.unpack("<i", found["dtype"])
    (shape,) = _shapes(plan, found.end(), 1)
    # A size below zero names an expression of free sizes.
    sizes = tuple(max(size, -1) for size in shape or ())
    return Tensor(dtype=torch_dtype(tensorrt_rtx.DataType(code)), shape=sizes)


def _shapes(plan: bytes, start: int, count: int) -> tuple[Shape | None, ...]:
    shapes: list[Shape | None] = []
    for _ in range(count):
        found = _RANK.match(plan, start)
        assert found is not None, "a shape is written in another way"
        (rank,) = struct.unpack("<i", found["rank"])
        shapes.append(struct.unpack_from(f"<{rank}q", plan, found.end()) if rank >= 0 else None)
        start = found.end() + 8 * max(rank, 0) + _SHAPE_END
    return tuple(shapes)
