"""A DiT whose blocks run on fused kernels: fewer passes over memory, the same arithmetic.

``fuse`` changes a DiT in place and ``unfuse`` changes it back; parameters keep their names and values. Nothing here is
used unless asked for. For inference: the kernels have no backward pass.

Shape legend: B batch, Q tokens, D width, H heads, K head_dim.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo_rt.kernels.adaln_modulate import adaln_modulate
from humo_rt.kernels.gate_residual_norm import gate_residual_norm
from humo_rt.kernels.qk_norm_rope import qk_norm_rope
from humo_rt.model.attention import KeyValue, SelfAttention
from humo_rt.model.block import Block
from humo_rt.model.dit import HumoDiT


class Carried(NamedTuple):
    """What a fused block hands to the next one: the stream, and the first norm and the modulation of that block."""

    x_BQD: Tensor
    normed_BQD: Tensor
    parts: tuple[Tensor, ...]


class FusedBlock(Block):
    """A ``Block`` with every norm in the pass that makes its input. ``fuse`` turns blocks into these and links them."""

    following: tuple[FusedBlock, ...]  # the next block in a tuple, which does not register it as a part of this one
    qkv: tuple[Tensor, Tensor]  # weight (3 D, D) and bias; the weights of q, k and v are views of it

    def forward(
        self,
        x_BQD: Tensor | Carried,
        time_B6D: Tensor,
        rope: tuple[Tensor, Tensor],
        text: Tensor | KeyValue,
        audio: Tensor | KeyValue | None,
        face_weight_BQ1: Tensor | None = None,
    ) -> tuple[Tensor | Carried, Tensor]:
        """As ``Block.forward``; between fused blocks the stream travels with the norm the next one starts from."""
        x, normed, parts = x_BQD if isinstance(x_BQD, Carried) else self._entered(x_BQD, time_B6D)
        _, _, gate_attn, shift_ffn, scale_ffn, gate_ffn = parts
        into_ffn = (shift_ffn, scale_ffn, True, self.norm2.eps, _matmul_dtype(self.ffn[0]))

        y = self._self_attention(normed, rope)
        x, normed = gate_residual_norm(x, y, gate_attn, *_affine(self.norm3, self.cross_attn.q))
        y = self.cross_attn(normed, text)
        if audio is not None:
            wrapper = self.audio_cross_attn_wrapper
            x, normed = gate_residual_norm(x, y, None, *_affine(wrapper.norm1_audio, wrapper.audio_cross_attn.q))
            y = wrapper.audio_cross_attn(normed, audio)
            y = y if face_weight_BQ1 is None else face_weight_BQ1 * y
        after_audio, normed = gate_residual_norm(x, y, None, *into_ffn)
        y = self.ffn(normed)
        return self._left(after_audio, y, gate_ffn, time_B6D), after_audio

    def _entered(self, x_BQD: Tensor, time_B6D: Tensor) -> Carried:
        x, parts = x_BQD.float(), self._modulation(time_B6D)
        shift, scale = parts[:2]
        return Carried(x, adaln_modulate(x, shift, scale, self.norm1.eps, _matmul_dtype(self.self_attn.q)), parts)

    def _left(self, x_BQD: Tensor, y_BQD: Tensor, gate_B1D: Tensor, time_B6D: Tensor) -> Tensor | Carried:
        if not self.following:
            return torch.addcmul(x_BQD, gate_B1D, y_BQD.to(x_BQD.dtype))
        (following,) = self.following
        parts = following._modulation(time_B6D)
        shift, scale = parts[:2]
        dtype = _matmul_dtype(following.self_attn.q)
        x, normed = gate_residual_norm(x_BQD, y_BQD, gate_B1D, shift, scale, True, following.norm1.eps, dtype)
        return Carried(x, normed, parts)

    def _modulation(self, time_B6D: Tensor) -> tuple[Tensor, ...]:
        return (self.modulation.float() + time_B6D).chunk(6, dim=1)

    def _self_attention(self, normed_BQD: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        attention, (weight, bias) = self.self_attn, self.qkv
        q, k, v = F.linear(normed_BQD, weight, bias).chunk(3, dim=-1)
        heads, norms = attention.num_heads, (attention.norm_q.weight, attention.norm_k.weight)
        q_BQHK, k_BQHK = qk_norm_rope(q, k, *norms, *rope, heads, attention.norm_q.eps)
        kv = KeyValue(k_BQHK.transpose(1, 2), attention.split_heads(v))
        return attention.attend(q_BQHK.transpose(1, 2), kv)


def fuse(dit: HumoDiT) -> HumoDiT:
    """Make the blocks of ``dit`` run on fused kernels, in place; returns it.

    Call it after the DiT has its device and dtype. ``ValueError`` when it is fused already.
    """
    if any(isinstance(block, FusedBlock) for block in dit.blocks):
        raise ValueError("this DiT is fused already: call unfuse first")
    for block in dit.blocks:
        block.qkv = _packed(block.self_attn)
        block.__class__ = FusedBlock
    for block, *following in zip(dit.blocks, dit.blocks[1:], strict=False):
        block.following = tuple(following)
    dit.blocks[-1].following = ()
    return dit


def unfuse(dit: HumoDiT) -> HumoDiT:
    """Give a fused ``dit`` its plain blocks back, in place; returns it. A plain one stays as it is."""
    for block in dit.blocks:
        if isinstance(block, FusedBlock):
            block.__class__ = Block
            del block.qkv, block.following
    return dit


def _packed(attention: SelfAttention) -> tuple[Tensor, Tensor]:
    """One weight and one bias for q, k and v, whose own parameters become views of them: no memory is spent twice."""
    layers = (attention.q, attention.k, attention.v)
    packed = []
    for name in ("weight", "bias"):
        joined = torch.cat([getattr(layer, name).detach() for layer in layers])
        for layer, part in zip(layers, joined.chunk(3), strict=True):
            getattr(layer, name).data = part
        packed.append(joined)
    return packed[0], packed[1]


def _affine(norm: nn.LayerNorm, reader: nn.Linear) -> tuple[Tensor, Tensor, bool, float, torch.dtype]:
    return norm.bias, norm.weight, False, norm.eps, _matmul_dtype(reader)


def _matmul_dtype(linear: nn.Linear) -> torch.dtype:
    """What the product of ``linear`` is computed in, and so what its input may be rounded to."""
    device = linear.weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else linear.weight.dtype
