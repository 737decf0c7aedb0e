"""Audio attention as one custom node of an exported graph, which TensorRT runs as the plugin of the same name.

The node stands in place of the norm of the queries, the transposes and the attention. Inputs: q (B, L, D), weight of
the norm (D,) float32, k and v (P, B, T, H, S, K), all contiguous; output as q. What they are says
``humo_rt.kernels.audio_face_attention``; face weights stay outside of the node, as in the model. Knows no TensorRT.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from humo_rt.model.attention import AudioAttention, KeyValue
from humo_rt.model.dit import HumoDiT

NAME = "audio_face_attention"
DOMAIN = "humo_rt"
VERSION = 2  # an engine made for another finds no plugin: it would bring no workspace
EPSILON = "eps"


class AudioAttentionNode(nn.Module):
    """``AudioAttention`` with everything between its projections as one node; can only be exported."""

    def __init__(self, attention: AudioAttention) -> None:
        super().__init__()
        self.q, self.norm_q, self.o = attention.q, attention.norm_q, attention.o

    def forward(self, x_BQD: Tensor, audio: KeyValue, face_weight_BQ1: Tensor | None = None) -> Tensor:
        q_BQD = self.q(x_BQD)
        inputs = (q_BQD, self.norm_q.weight.float(), audio.k.unsqueeze(0), audio.v.unsqueeze(0))
        heard_BQD = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{NAME}",
            inputs,
            {EPSILON: self.norm_q.eps, "plugin_version": str(VERSION)},  # TensorRT's parser looks for 1 otherwise
            dtype=q_BQD.dtype,
            shape=q_BQD.shape,
            version=VERSION,
        )
        added_BQD = self.o(heard_BQD)
        return added_BQD if face_weight_BQ1 is None else face_weight_BQ1 * added_BQD


@contextmanager
def audio_attention_nodes(dit: HumoDiT) -> Iterator[None]:
    """Within the block, the audio attentions of ``dit`` are nodes."""
    wrappers = [block.audio_cross_attn_wrapper for block in dit.blocks]
    attentions = [wrapper.audio_cross_attn for wrapper in wrappers]
    try:
        for wrapper, attention in zip(wrappers, attentions, strict=True):
            wrapper.audio_cross_attn = AudioAttentionNode(attention)
        yield
    finally:
        for wrapper, attention in zip(wrappers, attentions, strict=True):
            wrapper.audio_cross_attn = attention
