"""Fused blocks whose matrix products run in float8: the precision tier "fp8".

Norms and GELU write e4m3 rows in the pass they make anyway, and q, k and v read the same rows; only what attention in
bf16 returns has a pass of its own. Lossy. The bf16 weights are gone afterwards, so there is no way back.

Shape legend: B batch, U distinct inputs of the batch, Q tokens, S rows of keys, D width, H heads, K head_dim.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from humo_rt.kernels.adaln_modulate_quantize import adaln_modulate_quantize
from humo_rt.kernels.float8 import QuantizedRows
from humo_rt.kernels.gate_residual_norm_quantize import gate_residual_norm_quantize
from humo_rt.kernels.gelu_quantize import gelu_quantize
from humo_rt.kernels.qk_norm_rope_quantize import bound_scale, qk_norm_rope_quantize
from humo_rt.kernels.quantize_rows import requantize_rows
from humo_rt.kernels.quantize_tensor import quantize_tensor
from humo_rt.model.block import Block
from humo_rt.model.dit import HumoDiT
from humo_rt.runtime.float8_attention import attend_quantized, float8_attention, key_padding, with_common_value
from humo_rt.runtime.float8_linear import Float8Linear
from humo_rt.runtime.fused_block import FusedBlock
from humo_rt.runtime.fusing import is_fused, link, pack
from humo_rt.runtime.precision import EXACT_LAYERS, check_patterns, check_widths, float8_layers


class Float8Block(FusedBlock):
    """A ``FusedBlock`` in which some linear layers are ``Float8Linear``; each norm writes what its reader takes.

    With attention in float8 q and k never exist in bf16 after their norm, nor does its result.
    """

    qk_scales: tuple[Tensor, Tensor]  # of queries and keys in float8, bounds from the weights of their norms

    def _first_reader(self) -> nn.Module:
        return self.qkv if isinstance(self.qkv, Float8Linear) else super()._first_reader()

    @staticmethod
    def _norm(
        x_BQD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor, eps: float, reader: nn.Module
    ) -> Tensor | QuantizedRows:
        if isinstance(reader, Float8Linear):
            return adaln_modulate_quantize(x_BQD, shift_B1D, scale_B1D, eps)
        return FusedBlock._norm(x_BQD, shift_B1D, scale_B1D, eps, reader)

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
    ) -> tuple[Tensor, Tensor | QuantizedRows]:
        arguments = (x_BQD, y_BQD, gate_B1D, shift, scale, modulated, eps)
        if isinstance(reader, Float8Linear):
            return gate_residual_norm_quantize(*arguments, earlier_BQD)
        return FusedBlock._add_and_norm(*arguments, reader, earlier_BQD)

    @staticmethod
    def _norm_of_sum(
        x_BQD: Tensor, y_BQD: Tensor, shift: Tensor, scale: Tensor, modulated: bool, eps: float, reader: nn.Module
    ) -> Tensor | QuantizedRows:
        if isinstance(reader, Float8Linear):  # not by default: audio attention is exact
            return gate_residual_norm_quantize(x_BQD, y_BQD, None, shift, scale, modulated, eps)[1]
        return FusedBlock._norm_of_sum(x_BQD, y_BQD, shift, scale, modulated, eps, reader)

    def _product(self, layer: nn.Module, x_BQC: Tensor | QuantizedRows) -> Tensor:
        return layer(x_BQC) if isinstance(layer, Float8Linear) else super()._product(layer, x_BQC)

    def _self_attention(
        self, qkv_UQE: Tensor, rope: tuple[Tensor, Tensor], alike: int, wanted: int | None
    ) -> Tensor | QuantizedRows:
        attention = self.self_attn
        if attention.attention_function is not float8_attention:
            return super()._self_attention(qkv_UQE, rope, alike, wanted)
        q, k, v = qkv_UQE.chunk(3, dim=-1)
        heads, norms = attention.num_heads, (attention.norm_q.weight, attention.norm_k.weight)
        scale_q, scale_k = self.qk_scales
        eps, padding = attention.norm_q.eps, key_padding(q.shape[1])
        q_UQHK, k_USHK = qk_norm_rope_quantize(q, k, *norms, *rope, heads, eps, scale_q, scale_k, padding)
        v_USD, scale_v, centre_U1D = quantize_tensor(v, centred=True, padding=padding)
        v_USHK = v_USD.unflatten(2, (heads, -1))
        y_UQHK, scale_y = attend_quantized((q_UQHK, scale_q), (k_USHK, scale_k), (v_USHK, scale_v))
        y_UQHK = y_UQHK[:, :wanted]  # its keys are as many as its queries, which are all computed
        if isinstance(attention.o, Float8Linear):
            return requantize_rows(y_UQHK.flatten(2), scale_y, centre_U1D)
        return with_common_value(y_UQHK, scale_y, centre_U1D).to(v.dtype).flatten(2)

    def _project_qkv(self, normed_UQD: Tensor | QuantizedRows) -> Tensor:
        return self.qkv(normed_UQD) if isinstance(self.qkv, Float8Linear) else super()._project_qkv(normed_UQD)

    def _widened(self, normed_BQD: Tensor | QuantizedRows) -> Tensor | QuantizedRows:
        widen, _, narrow = self.ffn
        if isinstance(narrow, Float8Linear):
            return gelu_quantize(self._product(widen, normed_BQD))
        if isinstance(widen, Float8Linear):
            return F.gelu(widen(normed_BQD), approximate="tanh")
        return super()._widened(normed_BQD)


def fuse_float8(dit: HumoDiT, exact_layers: tuple[str, ...] = EXACT_LAYERS) -> HumoDiT:
    """Make ``dit`` run on fused kernels and float8 products, in place, block by block; returns it.

    Call it instead of ``fuse``, after the DiT has its device and dtype. ``exact_layers``: what stays as it is, see
    ``precision.EXACT_LAYERS``. ``ValueError`` for a pattern that names nothing, a width that is no multiple of 16, and
    a DiT that is fused already.
    """
    check_widths(dit.config)
    check_patterns(exact_layers, len(dit.blocks))
    if is_fused(dit):
        raise ValueError("this DiT is fused already: call unfuse first")
    for number, block in enumerate(dit.blocks):
        _quantize_block(block, float8_layers(number, len(dit.blocks), exact_layers))
        block.qk_scales = tuple(bound_scale(norm.weight) for norm in (block.self_attn.norm_q, block.self_attn.norm_k))
        block.__class__ = Float8Block
    return link(dit)


def is_float8(dit: HumoDiT) -> bool:
    return any(isinstance(block, Float8Block) for block in dit.blocks)


def _quantize_block(block: Block, layers: set[str]) -> None:
    attention = block.self_attn
    if "self_attn.qkv" in layers:
        block.qkv = Float8Linear([attention.q, attention.k, attention.v])
        del attention.q, attention.k, attention.v
    else:
        block.qkv = pack(attention)
    audio = block.audio_cross_attn_wrapper.audio_cross_attn
    owners = {"self_attn": attention, "cross_attn": block.cross_attn, "audio_cross_attn": audio, "ffn": block.ffn}
    for layer in layers - {"self_attn.qkv"}:
        owner, _, name = layer.rpartition(".")
        setattr(owners[owner], name, Float8Linear([getattr(owners[owner], name)]))
