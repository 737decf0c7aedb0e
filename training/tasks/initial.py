"""Initial weights of the DiT, one tensor at a time: a pure function of name, shape and seed.

Follows Wan's scheme: Xavier for projections, a small normal for text and time embeddings, a zero output head. The
output projections of the audio attention start at zero, so that a model that has never heard anything is unchanged by
the modules that stage 2 adds. Knows names and shapes; builds no module.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.task import derive_seed

_SMALL = ("text_embedding.", "time_embedding.")
_ZERO = ("head.head.weight", "audio_cross_attn.o.weight")
_SMALL_STD = 0.02


def initial_value(name: str, shape: torch.Size, seed: int) -> Tensor:
    """Float32 on the CPU."""
    if name.endswith(".bias") or name.endswith(_ZERO):
        return torch.zeros(shape)
    generator = torch.Generator().manual_seed(derive_seed(seed, name))
    if name.endswith("modulation"):
        return torch.randn(shape, generator=generator) / math.sqrt(shape[-1])
    if len(shape) == 1:
        return torch.ones(shape)
    if name.startswith(_SMALL):
        return torch.randn(shape, generator=generator) * _SMALL_STD
    fan_out, fan_in = shape[0], math.prod(shape[1:])
    limit = math.sqrt(6.0 / (fan_in + fan_out))
    return torch.empty(shape).uniform_(-limit, limit, generator=generator)
