"""Inputs of the text attention: awkward ones for tests, real ones for benchmarks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from humo_rt.kernels.testing import Case

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
EPS = 1e-6
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, float]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """One attention. ``texts``: real tokens of each branch's text; what ``text_len`` leaves is padding."""

    texts: tuple[int, ...]
    tokens: int
    heads: int
    head_dim: int
    text_len: int = 512


# One forward of all guidance branches: a prompt of usual length, and the negative prompt of 126 tokens.
WORKLOADS = {
    "humo-1.7b 480x832": Sizes(texts=(100, 100, 100, 126), tokens=40_560, heads=12, head_dim=128),
    "humo-1.7b 480x832 full text": Sizes(texts=(512,) * 4, tokens=40_560, heads=12, head_dim=128),
    "humo-17b 480x832": Sizes(texts=(100, 100, 126), tokens=40_560, heads=40, head_dim=128),
    "nano 128x128": Sizes(texts=(30, 30, 30, 1), tokens=1664, heads=4, head_dim=64, text_len=64),
}


def make_inputs(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Keys and values are views as the model's projections leave them; the same values every time."""
    batch, keys = len(sizes.texts), min(max(sizes.texts) + 1, sizes.text_len)
    generator = torch.Generator(device).manual_seed(sizes.tokens + keys + sizes.heads)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    q_BLD = normal(batch, sizes.tokens, sizes.heads * sizes.head_dim).to(dtype)
    norm_weight_D = 1 + 0.2 * normal(q_BLD.shape[-1])
    k, v = (normal(batch, keys, sizes.heads, sizes.head_dim).to(dtype).transpose(1, 2) for _ in range(2))
    bias_BS = torch.zeros(batch, keys)
    for row, length in zip(bias_BS, sizes.texts, strict=True):
        row[length:] = -math.inf
        if length < sizes.text_len:
            row[length] = math.log(sizes.text_len - length)
    return q_BLD, norm_weight_D, k, v, bias_BS.to(device), EPS


def bytes_moved(q_BLD: Tensor, norm_weight_D: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, eps: float) -> int:
    """What has to cross the memory bus: every input and the result once."""
    return 2 * q_BLD.nbytes + norm_weight_D.nbytes + k.nbytes + v.nbytes + (0 if bias is None else bias.nbytes)


def _strided(dtype: torch.dtype, device: torch.device) -> Inputs:
    """Queries as a third of one joint projection, keys as the first of many tokens."""
    return _within(Sizes(texts=(9, 3), tokens=42, heads=2, head_dim=64), dtype, device)


def _strided_as_published(dtype: torch.dtype, device: torch.device) -> Inputs:
    """The same with heads as the published models have them, at a length that ends within a tile."""
    return _within(Sizes(texts=(9, 3), tokens=131, heads=3, head_dim=128), dtype, device)


def _within(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Inputs:
    q, weight, k, v, bias, *rest = make_inputs(sizes, dtype, device)
    joint = torch.cat([q, q.flip(-1), q], dim=-1)
    return joint.chunk(3, dim=-1)[1], weight, k[:, :, :7], v[:, :, :7], bias[:, :7], *rest


def _transposed(dtype: torch.dtype, device: torch.device) -> Inputs:
    """No axis of the queries, keys or bias has a unit stride where it is expected."""
    q, weight, k, v, bias, *rest = make_inputs(Sizes(texts=(5,), tokens=18, heads=2, head_dim=64), dtype, device)
    q, k = (x.mT.contiguous().mT for x in (q, k))
    return q, weight.to(dtype), k, v.contiguous(), bias.T.contiguous().T, *rest


def _unaligned(dtype: torch.dtype, device: torch.device) -> Inputs:
    """Queries, weights and keys that begin, and rows of values that lie, where no vector of them can be read."""
    q, weight, k, v, *rest = make_inputs(Sizes(texts=(127,), tokens=65, heads=2, head_dim=128), dtype, device)
    q, weight, k = (torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape) for x in (q, weight, k))
    return q, weight, k, torch.cat([v, v[..., :1]], dim=-1)[..., :-1], *rest


def _unbiased(dtype: torch.dtype, device: torch.device) -> Inputs:
    q, weight, k, v, _, *rest = make_inputs(Sizes(texts=(100,), tokens=33, heads=3, head_dim=128), dtype, device)
    return q, weight, k, v, None, *rest


SHAPES = {
    "one": Sizes(texts=(1,), tokens=1, heads=1, head_dim=8, text_len=1),
    "odd": Sizes(texts=(3, 5, 0), tokens=7, heads=3, head_dim=10, text_len=6),
    "nano": Sizes(texts=(30, 1), tokens=70, heads=4, head_dim=64, text_len=64),
    "63 tokens": Sizes(texts=(63,), tokens=63, heads=3, head_dim=128),
    "1000 tokens": Sizes(texts=(126,), tokens=1000, heads=1, head_dim=64),
    "full text": Sizes(texts=(512, 20), tokens=17, heads=2, head_dim=64),
    "batch 8": Sizes(texts=tuple(range(8)), tokens=16, heads=2, head_dim=64),
    "40 heads": Sizes(texts=(60,), tokens=18, heads=40, head_dim=128),
    "64 tokens": Sizes(texts=(64, 20), tokens=70, heads=3, head_dim=128),
}
# So many that the kernel for few keys takes them, at a length that is no multiple of its tiles.
MANY_TOKENS = Sizes(texts=(60, 90), tokens=8193, heads=16, head_dim=16)
LAYOUTS = {
    "strided": _strided,
    "strided as published": _strided_as_published,
    "transposed": _transposed,
    "unaligned": _unaligned,
    "no bias": _unbiased,
}


def _cases(dtype: torch.dtype) -> list[Case]:
    suffix = str(dtype).removeprefix("torch.")
    plain = [
        Case(name=f"{name} {suffix}", make=lambda device, sizes=sizes: make_inputs(sizes, dtype, device))
        for name, sizes in SHAPES.items()
    ]
    laid_out = [
        Case(name=f"{name} {suffix}", make=lambda device, make=make: make(dtype, device))
        for name, make in LAYOUTS.items()
    ]
    return [*plain, *laid_out]


CASES = [case for dtype in DTYPES for case in _cases(dtype)]
