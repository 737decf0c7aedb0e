"""Inputs of gate, residual and norm: awkward ones for tests, real ones for benchmarks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from humo_rt.kernels.testing import Case

EPS = 1e-6
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Stream(NamedTuple):
    """Branches, tokens, width; with something that was not added before, or without."""

    batch: int
    length: int
    width: int
    earlier: bool = False


# Tokens of 97 frames with one reference.
WORKLOADS = {
    "humo-1.7b 480x832": Stream(3, 40_560, 1536),
    "humo-17b 720x1280": Stream(1, 93_600, 5120),
    "nano 128x128": Stream(4, 1664, 256),
    "humo-1.7b 480x832 two residuals": Stream(3, 40_560, 1536, earlier=True),
    "humo-17b 720x1280 two residuals": Stream(1, 93_600, 5120, earlier=True),
}

# At the end what was not added before, if there is such a thing.
Inputs = tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, bool, float, torch.dtype, *tuple[Tensor, ...]]


def make_inputs(
    shape: Stream | tuple[int, int, int],
    dtype: torch.dtype,
    device: torch.device,
    *,
    gated: bool = True,
    modulated: bool = True,
) -> Inputs:
    """A float32 residual stream, the output of a sub-block in ``dtype``, and three of six modulation vectors."""
    generator = torch.Generator(device).manual_seed(sum(shape))
    batch, length, width, earlier = Stream(*shape)
    residual_BLD = torch.randn(batch, length, width, generator=generator, device=device) * 3 + 0.5
    y_BLD = torch.randn(batch, length, width, generator=generator, device=device).to(dtype)
    parts = torch.randn(batch, 6, width, generator=generator, device=device).chunk(6, dim=1)
    gate_B1D, shift, scale = parts[2:5]
    if not modulated:
        shift, scale = shift[0, 0], scale[0, 0]
    gate_B1D = gate_B1D if gated else None
    inputs = residual_BLD, y_BLD, gate_B1D, shift, scale, modulated, EPS, dtype
    return with_earlier(inputs) if earlier else inputs


def bytes_moved(residual_BLD: Tensor, y_BLD: Tensor, *rest: object) -> int:
    """What has to cross the memory bus: every input once, both results once."""
    vectors = sum(each.nbytes for each in rest if isinstance(each, Tensor))
    (dtype,) = (each for each in rest if isinstance(each, torch.dtype))
    return 2 * residual_BLD.nbytes + y_BLD.nbytes + vectors + residual_BLD.numel() * dtype.itemsize


def _narrow_stream(dtype: torch.dtype, device: torch.device) -> Inputs:
    residual_BLD, y_BLD, *rest = make_inputs((2, 7, 1000), dtype, device)
    vectors = [vector.to(dtype) for vector in rest[:3]]
    return residual_BLD.to(dtype), y_BLD.float(), *vectors, *rest[3:]


def _strided(dtype: torch.dtype, device: torch.device) -> Inputs:
    residual_BLD, y_BLD, gate_B1D, shift, scale, *rest = make_inputs((3, 40, 256), dtype, device)
    vectors = (gate_B1D[:1, :, 4:], shift[..., 4:], scale[..., 4:])
    return residual_BLD[:, 1::3, 4:], y_BLD[:, 13:26, :-4], *vectors, *rest


def _transposed(dtype: torch.dtype, device: torch.device) -> Inputs:
    residual_BLD, y_BLD, *rest = make_inputs((3, 64, 64), dtype, device, modulated=False)
    return residual_BLD.transpose(1, 2), y_BLD.transpose(1, 2), *rest


def with_earlier(inputs: Inputs) -> Inputs:
    """The same inputs, and what was not added to the residual before, laid out as y is."""
    return (*inputs, inputs[1].flip(1))


def _cases(dtype: torch.dtype) -> list[Case]:
    shapes = [(1, 1, 64), (3, 21, 256), (8, 3, 1000), (2, 100, 63), (1, 9, 1536), (1, 3, 5120)]
    kinds = {"modulated": {}, "affine": {"gated": False, "modulated": False}}
    suffix = str(dtype).removeprefix("torch.")
    plain = [
        Case(
            name=f"{shape} {kind} {suffix}",
            make=lambda device, shape=shape, knobs=knobs: make_inputs(shape, dtype, device, **knobs),
        )
        for shape in shapes
        for kind, knobs in kinds.items()
    ]
    special = {
        "gated affine": lambda dtype, device: make_inputs((2, 5, 64), dtype, device, modulated=False),
        "plain modulated": lambda dtype, device: make_inputs((2, 5, 64), dtype, device, gated=False),
        "narrow stream": _narrow_stream,
        "strided": _strided,
        "transposed": _transposed,
        "earlier": lambda dtype, device: with_earlier(make_inputs((3, 21, 256), dtype, device)),
        "earlier strided": lambda dtype, device: with_earlier(_strided(dtype, device)),
    }
    return plain + [
        Case(name=f"{name} {suffix}", make=lambda device, make=make: make(dtype, device))
        for name, make in special.items()
    ]


CASES = [case for dtype in DTYPES for case in _cases(dtype)]
