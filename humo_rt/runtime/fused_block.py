"""A block on fused kernels: fewer passes over memory, the same arithmetic. ``fusing`` makes a DiT of them.

For inference: the kernels have no backward pass.

Beside attention and matrix products a block moves, per token and unit of width: four times gate, residual and norm (12
bytes each: the float32 stream in and out, a sub-block's result in, the next one's input out; text's and audio's two are
22 together, as the first of them is not written), once the norm and rotation of q and k (8 bytes), the queries of text
and of audio twice, and what text attention returns (10 bytes): 64 bytes in all. Audio attention returns probabilities,
16 for the 128 channels of a head, and the values that they weigh hold the output projection. Where audio is for the
tokens of faces alone, one of the four norms is theirs alone: they are fetched into it (6 bytes) and go back into stream
and norm in place (12 bytes), and the others move 50 bytes.

Shape legend: B batch, U distinct inputs of the batch, Q tokens, L text tokens, S keys, D width, H heads, K head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from humo_rt.kernels.adaln_modulate import adaln_modulate
from humo_rt.kernels.audio_face_probabilities import audio_face_probabilities, fold_values, weigh_values
from humo_rt.kernels.float8 import QuantizedRows
from humo_rt.kernels.gate_residual_norm import gate_residual_norm
from humo_rt.kernels.gather_norm import gather_norm
from humo_rt.kernels.qk_norm_rope import qk_norm_rope
from humo_rt.kernels.residual_norm import residual_norm
from humo_rt.kernels.scatter_residual_norm import scatter_residual_norm
from humo_rt.kernels.text_attention import text_attention
from humo_rt.model.attention import BiasedKeyValue, KeyValue
from humo_rt.model.block import Block
from humo_rt.model.face_tokens import FaceTokens, TokenGroup
from humo_rt.runtime.matmul_kernels import TORCH, linear, linear_gelu

# Texts of about one length share kernels and recordings, for keys that the kernel would leave out of a tile anyway.
KEY_STEP = 64
# With fewer tokens alike, attention to them costs no more than merging what is attended to apart.
FEWEST_ALIKE = 8192


class Carried:
    """Tensors for the one who is called: a fused block hands the next one stream, first norm and modulation.

    They are taken out, because a caller holds this until the call returns, and would hold a stream and a norm that
    nobody needs any more.
    """

    def __init__(self, *parts: Any) -> None:
        self._parts: tuple[Any, ...] | None = parts

    def take(self) -> tuple[Any, ...]:
        """The tensors, once."""
        assert self._parts is not None, "taken before"
        parts, self._parts = self._parts, None
        return parts

    def copy(self) -> Carried:
        """Another one of the same tensors, for whoever gives them to two blocks."""
        assert self._parts is not None, "taken before"
        return Carried(*self._parts)


class FusedBlock(Block):
    """A ``Block`` with every norm in the pass that makes its input. ``fuse`` turns blocks into these and links them."""

    following: tuple[FusedBlock, ...]  # the next block in a tuple, which does not register it as a part of this one
    qkv: tuple[Tensor, Tensor]  # weight (3 D, D) and bias; the weights of q, k and v are views of it
    matmul_backend: str = TORCH  # set by ``matmul_backends.use_matmul``

    def project_text(self, text_BLD: Tensor, lengths: Sequence[int]) -> BiasedKeyValue:
        """As ``Block.project_text``; all padding becomes one key, whose bias is the logarithm of their number.

        That is exact: the rows beyond a text's length are zeros that went through one embedding, all equal.
        """
        limit = text_BLD.shape[1]
        keys = min(math.ceil((max(lengths) + 1) / KEY_STEP) * KEY_STEP, limit)
        kv = self.cross_attn.project(text_BLD[:, :keys])
        return BiasedKeyValue(kv.k, kv.v, _padding_bias(lengths, keys, limit).to(text_BLD.device))

    def forward(
        self,
        x_UQD: Tensor | Carried,
        time_U6D: Tensor,
        rope: tuple[Tensor, Tensor],
        text: Tensor | KeyValue | BiasedKeyValue,
        audio: Tensor | KeyValue | None,
        faces: Tensor | FaceTokens | None = None,
        rows_B: Tensor | None = None,
        alike: int = 0,
        wanted: int | None = None,
    ) -> tuple[Tensor | Carried, Tensor]:
        """As ``Block.forward``; between fused blocks the stream travels with the norm the next one starts from.

        What is as large as the stream goes as soon as it has been read: the largest inputs fit because of it.
        """
        carried = x_UQD if isinstance(x_UQD, Carried) else self.entered(x_UQD, time_U6D)
        x, normed, modulation = carried.take()
        y = self._project_qkv(normed)
        del normed
        y = self._product(self.self_attn.o, self._self_attention(y, rope, alike, wanted))
        if y.shape[1] < x.shape[1]:
            x, audio, faces = _first_tokens(y.shape[1], x, audio, faces)
        x, normed = self._before_text(x, y, modulation[:, 2:3])
        del y
        time = time_U6D
        if rows_B is not None:
            x, normed, modulation, time = (_samples(each, rows_B) for each in (x, normed, modulation, time))
        carried = Carried(x, self._text_attention(normed, text))
        del x, normed
        shift, scale, gate = modulation[:, 3:].chunk(3, dim=1)
        x, normed = self._heard(carried, audio, faces, shift, scale)
        y = self._widened(normed)
        del normed
        y = self._product(self.ffn[2], y)
        return self._left(x, y, gate, time), x

    def _heard(
        self,
        carried: Carried,
        audio: Tensor | KeyValue | None,
        faces: Tensor | FaceTokens | None,
        shift_B1D: Tensor,
        scale_B1D: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """From the stream and what text attention adds, to the stream after audio and the norm for the feed-forward."""
        x, y = carried.take()
        norm = (shift_B1D, scale_B1D, True, self.norm2.eps, self.ffn[0])
        if audio is None:
            return self._add_and_norm(x, y, None, *norm)
        if isinstance(faces, tuple):
            # The others have their norm then: they go from text to feed-forward in one pass, as without audio.
            x, normed = self._add_and_norm(x, y, None, *norm)
            for group in faces:
                self._add_to_faces(x, normed, audio.of_frames(group.frames_F), group, shift_B1D, scale_B1D)
            return x, normed
        wrapper = self.audio_cross_attn_wrapper
        affine, reader = _affine(wrapper.norm1_audio), wrapper.audio_cross_attn.q
        normed = self._norm_of_sum(x, y, *affine, reader)
        heard = self._audio_attention(normed, audio, faces)
        del normed
        return self._add_and_norm(x, heard, None, *norm, y)

    def entered(self, x_UQD: Tensor, time_U6D: Tensor) -> Carried:
        """As ``Block.entered``."""
        x, modulation = x_UQD.float(), self._modulation(time_U6D)
        shift, scale = modulation[:, :2].chunk(2, dim=1)
        return Carried(x, self._norm(x, shift, scale, self.norm1.eps, self._first_reader()), modulation)

    def _left(self, x_BQD: Tensor, y_BQD: Tensor, gate_B1D: Tensor, time_B6D: Tensor) -> Tensor | Carried:
        if not self.following:
            return torch.addcmul(x_BQD, gate_B1D, y_BQD.to(x_BQD.dtype))
        (following,) = self.following
        modulation = following._modulation(time_B6D)
        shift, scale = modulation[:, :2].chunk(2, dim=1)
        eps, reader = following.norm1.eps, following._first_reader()
        x, normed = self._add_and_norm(x_BQD, y_BQD, gate_B1D, shift, scale, True, eps, reader)
        return Carried(x, normed, modulation)

    def _first_reader(self) -> nn.Module:
        return self.self_attn.q

    @staticmethod
    def _norm(x_BQD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float, reader: nn.Module) -> Tensor:
        return adaln_modulate(x_BQD, shift_B1D, scale_B1D, eps, _matmul_dtype(reader))

    @staticmethod
    def _norm_of_sum(
        x_BQD: Tensor, y_BQD: Tensor, shift: Tensor, scale: Tensor, modulated: bool, eps: float, reader: nn.Module
    ) -> Tensor:
        return residual_norm(x_BQD, y_BQD, shift, scale, modulated, eps, _matmul_dtype(reader))

    @staticmethod
    def _add_and_norm(
        x_BQD: Tensor,
        y_BQD: Tensor,
        gate_B1D: Tensor | None,
        shift: Tensor,
        scale: Tensor,
        modulated: bool,
        eps: float,
        reader: nn.Module,
        earlier_BQD: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        dtype = _matmul_dtype(reader)
        return gate_residual_norm(x_BQD, y_BQD, gate_B1D, shift, scale, modulated, eps, dtype, earlier_BQD)

    def _modulation(self, time_B6D: Tensor) -> Tensor:
        return self.modulation.float() + time_B6D

    def _self_attention(self, qkv_UQE: Tensor, rope: tuple[Tensor, Tensor], alike: int, wanted: int | None) -> Tensor:
        """What the output projection reads, from queries, keys and values side by side (E = 3 D).

        At most of the ``wanted`` first tokens, where that spares something.
        """
        attention = self.self_attn
        q, k, v = qkv_UQE.chunk(3, dim=-1)
        heads, norms = attention.num_heads, (attention.norm_q.weight, attention.norm_k.weight)
        q_UQHK, k_UQHK = qk_norm_rope(q, k, *norms, *rope, heads, attention.norm_q.eps)
        q, k, v = q_UQHK.transpose(1, 2), k_UQHK.transpose(1, 2), attention.split_heads(v)
        if attention.alike_function is not None and len(q) > 1 and alike >= FEWEST_ALIKE:
            return attention.alike_function(q, k, v, alike).transpose(1, 2).flatten(2)
        return attention.attention_function(q[:, :, :wanted], k, v).transpose(1, 2).flatten(2)

    def _project_qkv(self, normed_UQD: Tensor) -> Tensor:
        return linear(normed_UQD, *self.qkv, self.matmul_backend)

    def _product(self, layer: nn.Linear, x_BQC: Tensor) -> Tensor:
        return linear(x_BQC, layer.weight, layer.bias, self.matmul_backend)

    def _before_text(self, x_UQD: Tensor, y_UQD: Tensor, gate_U1D: Tensor) -> tuple[Tensor, Tensor]:
        return self._add_and_norm(x_UQD, y_UQD, gate_U1D, *_affine(self.norm3), self.cross_attn.q)

    def _text_attention(self, normed_BQD: Tensor, text: Tensor | KeyValue | BiasedKeyValue) -> Tensor:
        attention = self.cross_attn
        if isinstance(text, Tensor):
            text = attention.project(text)
        bias = text.bias_BS if isinstance(text, BiasedKeyValue) else None
        q = self._product(attention.q, normed_BQD)
        k, v = text.k.to(q.dtype), text.v.to(q.dtype)
        attended = text_attention(q, attention.norm_q.weight, k, v, bias, attention.norm_q.eps)
        return self._product(attention.o, attended)

    def _audio_attention(self, normed_BQD: Tensor, audio: Tensor | KeyValue, face_weight_BQ1: Tensor | None) -> Tensor:
        """What audio adds to each token, the output projection included: the values hold it, with its bias.

        They are folded anew in every call: that is cheap, and those of all blocks for an audio of 97 frames at 480x832
        would take 0.4 GiB for HuMo-1.7B, 6.3 for HuMo-17B.
        """
        attention = self.audio_cross_attn_wrapper.audio_cross_attn
        if isinstance(audio, Tensor):
            audio = attention.project(audio)
        q = self._product(attention.q, normed_BQD)
        k, v = audio.k.to(q.dtype), audio.v.to(q.dtype)
        weight_PBQ = None if face_weight_BQ1 is None else face_weight_BQ1.squeeze(-1)
        if k.ndim == 5:  # one speaker
            k, v, weight_PBQ = k[None], v[None], None if weight_PBQ is None else weight_PBQ[None]
        prob_BQX = audio_face_probabilities(q, attention.norm_q.weight, k, weight_PBQ, attention.norm_q.eps)
        return weigh_values(prob_BQX, fold_values(v, attention.o.weight, attention.o.bias))

    def _add_to_faces(
        self,
        x_BQD: Tensor,
        normed_BQD: Tensor,
        audio: KeyValue,
        group: TokenGroup,
        shift_B1D: Tensor,
        scale_B1D: Tensor,
    ) -> None:
        """Audio for the tokens of ``group``, in place: in the stream, and in its norm for the feed-forward."""
        wrapper = self.audio_cross_attn_wrapper
        norm, dtype = wrapper.norm1_audio, _matmul_dtype(wrapper.audio_cross_attn.q)
        inside = gather_norm(x_BQD, group.tokens_M, norm.bias, norm.weight, norm.eps, dtype)
        heard = self._audio_attention(inside, audio, group.weight_BM1)
        scatter_residual_norm(x_BQD, normed_BQD, heard, group.tokens_M, shift_B1D, scale_B1D, self.norm2.eps)

    def _widened(self, normed_BQD: Tensor) -> Tensor:
        """What the second layer of the feed-forward reads."""
        widen = self.ffn[0]
        return linear_gelu(normed_BQD, widen.weight, widen.bias, self.matmul_backend)


def _padding_bias(lengths: Sequence[int], keys: int, limit: int) -> Tensor:
    """(B, S) float32: 0 for the tokens of a text, the logarithm of their number for its padding, nothing after that."""
    bias_BS = torch.full((len(lengths), keys), -math.inf)
    for row, length in zip(bias_BS, lengths, strict=True):
        row[:length] = 0
        if length < limit:
            row[length] = math.log(limit - length)
    return bias_BS


def _samples(x_UQD: Tensor | QuantizedRows, rows_B: Tensor) -> Tensor | QuantizedRows:
    """Indexing copies a few long rows at the memory's speed, ``index_select`` at a third of it."""
    return x_UQD[rows_B] if isinstance(x_UQD, Tensor) else x_UQD.index_select(0, rows_B)


def _first_tokens(
    count: int, x_UQD: Tensor, audio: KeyValue | None, face_weight_BQ1: Tensor | None
) -> tuple[Tensor, KeyValue | None, Tensor | None]:
    """Views of what a block reads beside its attention's result, for the first ``count`` tokens, of whole frames."""
    if audio is not None:
        audio = audio.of_first_frames(audio.k.shape[-4] * count // x_UQD.shape[1])
    return x_UQD[:, :count], audio, None if face_weight_BQ1 is None else face_weight_BQ1.narrow(-2, 0, count)


def _affine(norm: nn.LayerNorm) -> tuple[Tensor, Tensor, bool, float]:
    return norm.bias, norm.weight, False, norm.eps


def _matmul_dtype(layer: nn.Linear) -> torch.dtype:
    """What the product of ``layer`` is computed in, and so what its input may be rounded to.

    A product in float8 rounds its input itself, once if that is float32.
    """
    if layer.weight.dtype.itemsize == 1:
        return torch.float32
    device = layer.weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else layer.weight.dtype
