"""One transformer block: self-attention, text attention, audio attention, feed-forward.

Self-attention and feed-forward are modulated and gated by the timestep; text and audio attention are plain residuals.
The residual stream is float32. Shape legend: B batch, U distinct inputs of the batch, Q tokens, L text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from humo_rt.config import DiTConfig
from humo_rt.model.attention import AudioAttention, BiasedKeyValue, KeyValue, SelfAttention, TextAttention
from humo_rt.model.face_tokens import FaceTokens
from humo_rt.model.layers import LayerNorm, Linear


def modulate(x_BQD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> Tensor:
    return x_BQD * (1 + scale_B1D) + shift_B1D


class AudioSubBlock(nn.Module):
    """Affine LayerNorm, then audio attention. The published checkpoints name this wrapper."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.norm1_audio = LayerNorm(config.dim, eps=config.eps)
        self.audio_cross_attn = AudioAttention(config.dim, config.num_heads, config.eps, config.audio_token_dim)

    def forward(self, x_BQD: Tensor, audio: Tensor | KeyValue, face_weight_BQ1: Tensor | None = None) -> Tensor:
        return self.audio_cross_attn(self.norm1_audio(x_BQD), audio, face_weight_BQ1)

    def add_to(self, x_BQD: Tensor, audio: Tensor | KeyValue, faces: Tensor | FaceTokens | None) -> Tensor:
        """``x_BQD`` and what the audio adds; ``faces`` as in ``Block.forward``, their tokens are changed in place."""
        if not isinstance(faces, tuple):
            return x_BQD + self(x_BQD, audio, faces)
        for group in faces:
            inside = x_BQD.index_select(1, group.tokens_M)
            heard = self(inside, audio.of_frames(group.frames_F), group.weight_BM1)
            x_BQD.index_copy_(1, group.tokens_M, inside + heard)
        return x_BQD


class Block(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        dim, heads, eps = config.dim, config.num_heads, config.eps
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        self.norm1 = LayerNorm(dim, eps=eps, elementwise_affine=False)
        self.self_attn = SelfAttention(dim, heads, eps)
        self.norm3 = LayerNorm(dim, eps=eps)
        self.cross_attn = TextAttention(dim, heads, eps)
        self.audio_cross_attn_wrapper = AudioSubBlock(config)
        self.norm2 = LayerNorm(dim, eps=eps, elementwise_affine=False)
        self.ffn = nn.Sequential(Linear(dim, config.ffn_dim), nn.GELU(approximate="tanh"), Linear(config.ffn_dim, dim))

    def project_text(self, text_BLD: Tensor, lengths: Sequence[int]) -> KeyValue | BiasedKeyValue:
        """What ``forward`` takes for ``text``, made once per generation. Beyond ``lengths`` the rows are padding."""
        return self.cross_attn.project(text_BLD)

    def entered(self, x_UQD: Tensor, time_U6D: Tensor) -> Tensor:
        """What the first block of a model is given instead of the embedded tokens, which are of no use afterwards."""
        return x_UQD

    def forward(
        self,
        x_UQD: Tensor,
        time_U6D: Tensor,
        rope: tuple[Tensor, Tensor],
        text: Tensor | KeyValue,
        audio: Tensor | KeyValue | None,
        faces: Tensor | FaceTokens | None = None,
        rows_B: Tensor | None = None,
        alike: int = 0,
        wanted: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns the block's output and the hidden state right after audio attention (what the mask predictor reads).

        ``faces``: where audio acts. Weights (B, Q, 1) scale what it adds to each token, 1 inside a face, 0 outside, or
        anything between; with an axis of speakers in front if ``audio`` has one. Or the tokens of faces alone.
        ``rows_B``: samples that differ in their conditions alone, given as one: the input that each continues after
        self-attention. None: every sample has its own, U = B.
        ``alike``: so many first tokens of every input are the same, as is ``time_U6D``; a block may spare what that
        makes superfluous.
        ``wanted``: of the results so many first tokens alone are of use, the others may be missing. None: all are.
        """
        modulation = self.modulation.float() + time_U6D
        shift, scale, gate = modulation[:, :3].chunk(3, dim=1)
        x = x_UQD.float()
        x = x + gate * self.self_attn(modulate(self.norm1(x), shift, scale), rope)
        if rows_B is not None:
            x, modulation = x.index_select(0, rows_B), modulation.index_select(0, rows_B)
        x = x + self.cross_attn(self.norm3(x), text)
        if audio is not None:
            x = self.audio_cross_attn_wrapper.add_to(x, audio, faces)
        after_audio = x
        shift, scale, gate = modulation[:, 3:].chunk(3, dim=1)
        x = x + gate * self.ffn(modulate(self.norm2(x), shift, scale))
        return x, after_audio
