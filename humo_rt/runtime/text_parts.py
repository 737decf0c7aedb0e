"""Texts as long as they are: branches attended to in parts, those of a short text by values with the output projection.

With all padding as one key a prompt of a sentence has 32 keys, and H * 32 rows of values that hold the output
projection are a quarter of that projection's D inputs. The negative prompt, of 126 tokens, has as many rows as that has
inputs.

Shape legend: N texts, B samples, Q tokens, L text tokens, D width, H heads, S keys, K head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn

from humo_rt.kernels.audio_face_probabilities import fold_values
from humo_rt.kernels.text_attention import text_attention
from humo_rt.kernels.text_probabilities import MAX_KEYS, text_probabilities
from humo_rt.model.attention import BiasedKeyValue, TextAttention
from humo_rt.runtime.matmul_kernels import HALF

# Texts of about one length share kernels and recordings, for keys that the kernel would leave out of a tile anyway.
KEY_STEP = 64
# The same of short texts, and the width from which on products cost more than their launches.
SHORT_STEP, FEWEST_CHANNELS = 32, 1024
# Each part has launches of its own.
MOST_PARTS = 4


class TextParts(NamedTuple):
    """The text of neighbouring samples for each part, (n, H, S, K) with a stride of 0 over its n samples."""

    parts: tuple[BiasedKeyValue, ...]


class ProjectedTexts(NamedTuple):
    """As ``BiasedKeyValue`` for N texts with so many real tokens, of which samples select theirs."""

    k: Tensor
    v: Tensor
    bias_BS: Tensor
    lengths: tuple[int, ...]

    def select(self, rows: Tensor) -> BiasedKeyValue | TextParts:
        """The texts ``rows`` (B,) of samples, in parts where that is less work."""
        parts = [(row, sum(1 for _ in each)) for row, each in groupby(rows.tolist())]
        if len(parts) > MOST_PARTS or not any(self._is_short(row) for row, _ in parts):
            return BiasedKeyValue(*self[:3]).select(rows)
        return TextParts(tuple(self._part(*part) for part in parts))

    def _is_short(self, row: int) -> bool:
        return self._keys(row, SHORT_STEP) <= _most_short_keys(self.k)

    def _keys(self, row: int, step: int) -> int:
        return min(math.ceil((self.lengths[row] + 1) / step) * step, self.k.shape[-2])

    def _part(self, row: int, samples: int) -> BiasedKeyValue:
        keys = self._keys(row, SHORT_STEP if self._is_short(row) else KEY_STEP)
        k, v, bias = self.k[row, :, :keys], self.v[row, :, :keys], self.bias_BS[row, :keys]
        return BiasedKeyValue(*(x.expand(samples, *x.shape) for x in (k, v, bias)))


def project_texts(
    attention: TextAttention, text_BLD: Tensor, lengths: Sequence[int]
) -> BiasedKeyValue | ProjectedTexts:
    """Keys and values of texts with so many real tokens, padded to L: one key stands for all padding."""
    limit = text_BLD.shape[1]
    keys = min(math.ceil((max(lengths) + 1) / KEY_STEP) * KEY_STEP, limit)
    kv = attention.project(text_BLD[:, :keys])
    bias = _padding_bias(lengths, keys, limit).to(text_BLD.device)
    if _folds(attention.o):
        return ProjectedTexts(kv.k, kv.v, bias, tuple(lengths))
    return BiasedKeyValue(kv.k, kv.v, bias)


@torch.no_grad()  # results are written into a part of the whole, which has no backward pass
def attend_in_parts(attention: TextAttention, q_BQD: Tensor, parts: Sequence[BiasedKeyValue]) -> Tensor:
    """What ``attention`` makes of its queries, before their norm: (B, Q, D), the output projection included.

    Its products are PyTorch's, whatever the blocks' others are by: these can write into a part of the whole.
    """
    y_BQD, begin = q_BQD.new_empty(q_BQD.shape), 0
    norm, eps = attention.norm_q.weight, attention.norm_q.eps
    weight, bias = attention.o.weight, attention.o.bias
    for part in parts:
        rows = slice(begin, begin + len(part.k))
        q, y = q_BQD[rows], y_BQD[rows].view(-1, y_BQD.shape[-1])
        k, v = part.k.to(q.dtype), part.v.to(q.dtype)
        if k.shape[-2] <= _most_short_keys(k):
            prob = text_probabilities(q, norm, k, part.bias_BS, eps)
            torch.mm(prob.flatten(0, 1), fold_values(v[None, :1, None], weight, bias)[0], out=y)
        else:
            attended = text_attention(q, norm, k, v, part.bias_BS, eps)
            torch.addmm(bias, attended.flatten(0, 1), weight.t(), out=y)
        begin = rows.stop
    return y_BQD


def _folds(projection: nn.Module) -> bool:
    """Whether values may hold this output projection.

    In float32 another order of sums would be most of what results may differ by; in float8 there is no weight to fold.
    """
    return (
        isinstance(projection, nn.Linear)
        and projection.weight.dtype in HALF
        and projection.out_features >= FEWEST_CHANNELS
    )


def _most_short_keys(k_BHSK: Tensor) -> int:
    """With half as many as a head has channels, values that hold the output projection have half as many rows as that
    has inputs."""
    return min(k_BHSK.shape[-1] // 2, MAX_KEYS)


def _padding_bias(lengths: Sequence[int], keys: int, limit: int) -> Tensor:
    """(N, S) float32: 0 for the tokens of a text, the logarithm of their number for its padding, nothing after that."""
    bias_NS = torch.full((len(lengths), keys), -math.inf)
    for row, length in zip(bias_NS, lengths, strict=True):
        row[:length] = 0
        if length < limit:
            row[length] = math.log(limit - length)
    return bias_NS
