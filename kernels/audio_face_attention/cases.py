"""Inputs of the audio face attention: awkward ones for tests, real ones for benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from humo_rt.kernels.testing import in_each_dtype

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
EPS = 1e-6
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, float]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """One attention. ``mask`` is "none", "soft" or "binary" (the last leaves 15 % of the tokens)."""

    batch: int = 1
    frames: int
    tokens: int  # of one frame
    heads: int
    head_dim: int
    keys: int = 16
    speakers: int = 1
    mask: str = "none"


# One forward of all guidance branches; the last frame is the reference.
WORKLOADS = {
    "humo-1.7b 480x832": Sizes(batch=4, frames=26, tokens=1560, heads=12, head_dim=128),
    "humo-1.7b 480x832 soft mask": Sizes(batch=4, frames=26, tokens=1560, heads=12, head_dim=128, mask="soft"),
    "humo-17b 720x1280": Sizes(batch=3, frames=26, tokens=3600, heads=40, head_dim=128),
    "nano 128x128": Sizes(batch=4, frames=26, tokens=64, heads=4, head_dim=64, keys=8),
}


def make_inputs(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Keys and values are views as the model's projections leave them; the same values every time."""
    s, width = sizes, sizes.heads * sizes.head_dim
    generator = torch.Generator(device).manual_seed(s.tokens + width + s.keys)
    normal = partial(torch.randn, generator=generator, device=device)
    q_BLD = normal(s.batch, s.frames * s.tokens, width).to(dtype)
    norm_weight_D = 1 + 0.2 * normal(width)
    k, v = (
        normal(s.speakers, s.batch, s.frames, s.keys, s.heads, s.head_dim).to(dtype).transpose(3, 4) for _ in range(2)
    )
    mask = None
    if s.mask != "none":
        mask = torch.rand(s.speakers, s.batch, s.frames * s.tokens, generator=generator, device=device)
        mask = (mask < 0.15).float() if s.mask == "binary" else mask
    return q_BLD, norm_weight_D, k, v, mask, EPS


def bytes_moved(q_BLD: Tensor, norm_weight_D: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, eps: float) -> int:
    """What has to cross the memory bus: every input and the result once."""
    return 2 * q_BLD.nbytes + norm_weight_D.nbytes + k.nbytes + v.nbytes + (0 if mask is None else mask.nbytes)


def _strided(dtype: torch.dtype, device: torch.device) -> Inputs:
    """Queries as a third of one joint projection."""
    q, weight, k, v, mask, eps = make_inputs(
        Sizes(batch=2, frames=2, tokens=21, heads=2, head_dim=64, mask="soft"), dtype, device
    )
    joint = torch.cat([q, q.flip(-1), q], dim=-1)
    return joint.chunk(3, dim=-1)[1], weight, k, v, mask, eps


def _misaligned(dtype: torch.dtype, device: torch.device) -> Inputs:
    q, weight, k, v, mask, eps = make_inputs(Sizes(frames=2, tokens=16, heads=2, head_dim=64), dtype, device)
    shifted = torch.empty(q.numel() + 1, dtype=dtype, device=device)[1:].view_as(q).copy_(q)
    return shifted, weight.to(dtype), k, v, mask, eps


def _transposed(dtype: torch.dtype, device: torch.device) -> Inputs:
    """No axis of the queries or keys has a unit stride where it is expected."""
    q, weight, k, v, mask, eps = make_inputs(Sizes(frames=2, tokens=9, heads=2, head_dim=64), dtype, device)
    return q.mT.contiguous().mT, weight, k.mT.contiguous().mT, v.contiguous(), mask, eps


def _shared_batch(dtype: torch.dtype, device: torch.device) -> Inputs:
    """Branches with one audio between them: a batch stride of zero."""
    q, weight, k, v, mask, eps = make_inputs(Sizes(batch=3, frames=2, tokens=16, heads=2, head_dim=64), dtype, device)
    return q, weight, k[:, :1].expand_as(k), v[:, :1].expand_as(v), mask, eps


def _one_face(dtype: torch.dtype, device: torch.device) -> Inputs:
    """A few tokens of the first frame: most tiles of a kernel hold none of them."""
    q, weight, k, v, _, eps = make_inputs(Sizes(frames=2, tokens=70, heads=2, head_dim=64, keys=5), dtype, device)
    mask = torch.zeros(1, *q.shape[:2], device=device)
    mask[:, :, 3:9] = 0.75
    return q, weight, k, v, mask, eps


SHAPES = {
    "one": Sizes(frames=1, tokens=1, heads=1, head_dim=8, keys=1),
    "odd": Sizes(batch=3, frames=3, tokens=7, heads=3, head_dim=10, keys=5, mask="soft"),
    "nano": Sizes(batch=2, frames=3, tokens=16, heads=4, head_dim=64, keys=8, mask="binary"),
    "63 tokens": Sizes(frames=2, tokens=63, heads=3, head_dim=128),
    "1000 tokens": Sizes(frames=1, tokens=1000, heads=1, head_dim=64, mask="binary"),
    "two speakers": Sizes(batch=2, frames=2, tokens=33, heads=2, head_dim=64, speakers=2, mask="soft"),
    "two speakers unmasked": Sizes(frames=2, tokens=16, heads=2, head_dim=128, speakers=2),
    "five speakers": Sizes(frames=1, tokens=20, heads=2, head_dim=64, speakers=5, keys=8, mask="binary"),
    "64 keys": Sizes(frames=2, tokens=17, heads=2, head_dim=64, keys=64),
    "37 keys": Sizes(frames=1, tokens=17, heads=2, head_dim=128, keys=37, mask="soft"),
    "batch 8": Sizes(batch=8, frames=2, tokens=16, heads=2, head_dim=64),
    "40 heads": Sizes(frames=1, tokens=18, heads=40, head_dim=128),
    "27 heads": Sizes(frames=1, tokens=16, heads=27, head_dim=64),
    "12 masked heads": Sizes(frames=2, tokens=75, heads=12, head_dim=128, mask="binary"),
    "17 heads, two speakers": Sizes(frames=1, tokens=31, heads=17, head_dim=128, keys=13, speakers=2),
    "40 heads, three speakers": Sizes(frames=1, tokens=3, heads=40, head_dim=128, speakers=3, mask="soft"),
}
LAYOUTS = {
    "strided": _strided,
    "misaligned": _misaligned,
    "transposed": _transposed,
    "shared batch": _shared_batch,
    "one face": _one_face,
}
CASES = in_each_dtype({name: partial(make_inputs, sizes) for name, sizes in SHAPES.items()} | LAYOUTS, DTYPES)
