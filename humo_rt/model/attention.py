"""The three attentions of a block. Each normalises queries and keys over the full width before splitting heads.

Shape legend: B batch, Q query tokens, S context tokens, D model width, C context width, H heads, K head_dim,
T latent frames, P speakers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo_rt.model.layers import Linear, RMSNorm


class KeyValue(NamedTuple):
    """Projected context. Text: (B, H, S, K); audio: (B, T, H, S, K), of several speakers (P, B, T, H, S, K)."""

    k: Tensor
    v: Tensor

    def select(self, rows: Tensor) -> KeyValue:
        """The entries ``rows`` of the batch axis, repeats allowed; a single one is a view, several are a copy.

        Rows (P, B) give each of P speakers its own: the result has an axis of P in front.
        """
        return KeyValue(*_selected(self, rows))

    def of_frames(self, frames_F: Tensor) -> KeyValue:
        """Of audio, the latent frames ``frames_F`` only; a copy."""
        return KeyValue(self.k.index_select(-4, frames_F), self.v.index_select(-4, frames_F))

    def of_first_frames(self, frames: int) -> KeyValue:
        """Of audio, so many first latent frames only; a view."""
        return KeyValue(self.k.narrow(-4, 0, frames), self.v.narrow(-4, 0, frames))

    def speakers(self) -> list[KeyValue]:
        """Of audio, each speaker's keys and values, (B, T, H, S, K) each."""
        if self.k.ndim == 5:
            return [self]
        return [KeyValue(k, v) for k, v in zip(self.k.unbind(0), self.v.unbind(0), strict=True)]


class BiasedKeyValue(NamedTuple):
    """Projected text in which keys may stand for several equal ones, (B, H, S, K) each, and what is added to the logits
    of the keys, (B, S) in float32."""

    k: Tensor
    v: Tensor
    bias_BS: Tensor

    def select(self, rows: Tensor) -> BiasedKeyValue:
        """As ``KeyValue.select``."""
        return BiasedKeyValue(*_selected(self, rows))


def _selected(tensors: Iterable[Tensor], rows: Tensor) -> list[Tensor]:
    if rows.shape == (1,):
        row = int(rows)
        return [x[row : row + 1] for x in tensors]
    return [x.index_select(0, rows.flatten()).unflatten(0, rows.shape) for x in tensors]


def apply_rope(x_BHQK: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate adjacent channel pairs by the angles of ``table`` (cosine, sine: each (Q, K / 2)) in float32."""
    cos, sin = table
    even, odd = x_BHQK.float().unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return rotated.flatten(-2).to(x_BHQK.dtype)


class Attention(nn.Module):
    """Projections and norms shared by all three; ``context_dim`` is the width keys and values are made from.

    ``attention_function`` computes softmax(q k^T / sqrt(K)) v: (B, H, Q, K) from that and two (B, H, S, K). Whoever
    places the model on a device may set a faster one on an instance.
    """

    attention_function: Callable[[Tensor, Tensor, Tensor], Tensor] = staticmethod(F.scaled_dot_product_attention)

    def __init__(self, dim: int, num_heads: int, eps: float, context_dim: int | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = Linear(dim, dim)
        self.k = Linear(context_dim or dim, dim)
        self.v = Linear(context_dim or dim, dim)
        self.o = Linear(dim, dim)
        self.norm_q = RMSNorm(dim, eps)
        self.norm_k = RMSNorm(dim, eps)

    def split_heads(self, x_BQD: Tensor) -> Tensor:
        return x_BQD.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)

    def queries(self, x_BQD: Tensor) -> Tensor:
        return self.split_heads(self.norm_q(self.q(x_BQD)))

    def project(self, context_BSC: Tensor) -> KeyValue:
        """Keys and values of a context; they depend on neither the video nor the timestep."""
        keys = self.split_heads(self.norm_k(self.k(context_BSC)))
        return KeyValue(keys, self.split_heads(self.v(context_BSC)))

    def attend(self, q_BHQK: Tensor, kv: KeyValue) -> Tensor:
        out = self.attention_function(q_BHQK, kv.k, kv.v)
        return self.o(out.transpose(-3, -2).flatten(-2))


class SelfAttention(Attention):
    """Every token sees every token; rotary positions on queries and keys.

    ``alike_function``: as ``attention_function``, of inputs whose first tokens are alike; their number comes last. None
    where what computes attention cannot spare them.
    """

    alike_function: Callable[[Tensor, Tensor, Tensor, int], Tensor] | None = None

    def forward(self, x_BQD: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        kv = self.project(x_BQD)
        return self.attend(apply_rope(self.queries(x_BQD), rope), KeyValue(apply_rope(kv.k, rope), kv.v))


class TextAttention(Attention):
    """Every token sees every text token, the zero padding included."""

    def forward(self, x_BQD: Tensor, text: Tensor | KeyValue) -> Tensor:
        return self.attend(self.queries(x_BQD), text if isinstance(text, KeyValue) else self.project(text))


class AudioAttention(Attention):
    """Frame-local: the tokens of latent frame i see the audio tokens of frame i only."""

    def forward(self, x_BQD: Tensor, audio: Tensor | KeyValue, face_weight_BQ1: Tensor | None = None) -> Tensor:
        """What the audio adds to each token, times its ``face_weight_BQ1`` if given.

        With keys and values of several speakers the weights are (P, B, Q, 1), and what the speakers add is summed.
        """
        kv = audio if isinstance(audio, KeyValue) else self.project(audio)
        frames = kv.k.shape[-4]
        q_NHQK = self.queries(x_BQD.unflatten(1, (frames, -1))).flatten(0, 1)
        speakers, weights = kv.speakers(), face_weight_BQ1
        if weights is None or kv.k.ndim == 5:
            weights = [face_weight_BQ1] * len(speakers)
        total = None
        for (k, v), weight in zip(speakers, weights, strict=True):
            heard = self.attend(q_NHQK, KeyValue(k.flatten(0, 1), v.flatten(0, 1))).reshape(x_BQD.shape)
            heard = heard if weight is None else weight * heard
            total = heard if total is None else total + heard
        return total
