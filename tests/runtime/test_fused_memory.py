"""What a forward of fused blocks holds at its peak, counted without a GPU: every tensor, on the device that has none.

Attention is an operator of one result, as it is on a GPU, and so is the linear layer with GELU in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from humo_rt.config import HUMO_1_7B, HUMO_17B, SPATIAL_STRIDE, ModelConfig
from humo_rt.model.attention import BiasedKeyValue, KeyValue
from humo_rt.model.dit import Context, HumoDiT
from humo_rt.model.embeddings import rope_table
from humo_rt.runtime import attention_backends, fused_block
from humo_rt.runtime.attention_kernels import self_attention_of_alike
from humo_rt.runtime.float8_block import fuse_float8
from humo_rt.runtime.fused_block import FusedBlock
from humo_rt.runtime.fusing import fuse, unfuse
from humo_rt.runtime.matmul_kernels import linear
from humo_rt.weights.memory import activation_bytes
from humo_rt.weights.modules import float32_rule

META = torch.device("meta")
BF16, F32 = torch.bfloat16, torch.float32
LAYERS, BRANCHES, KEYS = 6, 3, 64
FRAMES, HEIGHT, WIDTH = 25 + 1, 480 // SPATIAL_STRIDE, 832 // SPATIAL_STRIDE


class LiveBytes(TorchDispatchMode):
    """Bytes of what operators made and nobody has let go of, now and at most."""

    def __init__(self, *given: Any) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {storage(tensor)._cdata for tensor in tree_leaves(given) if isinstance(tensor, torch.Tensor)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (found := storage(tensor))._cdata not in self._known:
                self._known.add(found._cdata)
                self.now += found.nbytes()
                weakref.finalize(found, self._gone, found._cdata, found.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda **_: contextlib.nullcontext())
    monkeypatch.setattr(fused_block, "_matmul_dtype", lambda linear: linear.weight.dtype)
    monkeypatch.setattr(fused_block, "linear_gelu", lambda x, weight, bias, backend: linear(x, weight, bias, backend))


@pytest.fixture(params=[HUMO_1_7B, HUMO_17B], ids=lambda config: config.name)
def config(request) -> ModelConfig:
    return shortened(request.param)


def shortened(config: ModelConfig) -> ModelConfig:
    """A few layers; and a VAE of no size, as the estimate is the larger one of denoising and decoding."""
    dit = dataclasses.replace(config.dit, num_layers=LAYERS)
    return dataclasses.replace(config, dit=dit, vae=dataclasses.replace(config.vae, base_dim=1))


def empty(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


def make_dit(config: ModelConfig) -> HumoDiT:
    with META:
        dit = HumoDiT(config.dit).eval().requires_grad_(False)
    exact = float32_rule(dit)
    for name, parameter in dit.named_parameters():
        if not exact(name):
            parameter.data = parameter.data.to(BF16)
    attention_backends.use_attention(dit, "cudnn")
    return fuse(dit)


def make_context(config: ModelConfig) -> Context:
    heads, head_dim = config.dit.num_heads, config.dit.head_dim
    text = BiasedKeyValue(*(empty(BRANCHES, heads, KEYS, head_dim) for _ in "kv"), empty(BRANCHES, KEYS, dtype=F32))
    audio = KeyValue(*(empty(BRANCHES, FRAMES, heads, config.dit.audio_tokens, head_dim) for _ in "kv"))
    return Context((text,) * LAYERS, (audio,) * LAYERS)


@torch.no_grad()
@pytest.mark.parametrize("predicts_faces", [False, True])
def test_the_estimate_is_what_a_forward_holds(config, predicts_faces):
    if predicts_faces:
        config = dataclasses.replace(config, dit=dataclasses.replace(config.dit, mask_predictor=True))
    dit, context = make_dit(config), make_context(config)
    latents = empty(BRANCHES, 16, FRAMES, HEIGHT, WIDTH, dtype=F32)
    condition = None
    if config.dit.image_injection == "channels":
        condition = empty(BRANCHES, config.dit.in_channels - 16, FRAMES, HEIGHT, WIDTH, dtype=F32)
    rope = rope_table(FRAMES, HEIGHT // 2, WIDTH // 2, config.dit.head_dim, META)
    packed = [block.qkv for block in dit.blocks if isinstance(block, FusedBlock)]
    inputs = {"context": context, "condition": condition, "rope": rope, "return_face_mask": predicts_faces}
    with LiveBytes(list(dit.parameters()), packed, context, latents, condition, rope) as live:
        dit(latents, empty(BRANCHES, dtype=F32), **inputs)
    tokens = FRAMES * HEIGHT * WIDTH // 4
    size = {"height": 480, "width": 832, "num_frames": 97, "references": 1, "branches": BRANCHES}
    estimate = activation_bytes(config, **size, dtype=BF16, fused=True, predicts_faces=predicts_faces)
    narrow = BRANCHES * tokens * config.dit.dim * 2
    attention = 2 + 5 + 1  # the float32 stream; queries, keys and values, two of them rotated; the output
    feed_forward = 2 + config.dit.ffn_dim / config.dit.dim + 1  # the stream; the widened rows; what they are made into
    if not predicts_faces:
        expected = max(attention, feed_forward) * narrow
        assert expected <= live.peak <= 1.02 * expected
    assert live.peak <= estimate <= 1.3 * live.peak


@torch.no_grad()
def test_float8_fits_the_estimate(config):
    dit, context = fuse_float8(unfuse(make_dit(config))), make_context(config)
    latents = empty(BRANCHES, 16, FRAMES, HEIGHT, WIDTH, dtype=F32)
    condition = None
    if config.dit.image_injection == "channels":
        condition = empty(BRANCHES, config.dit.in_channels - 16, FRAMES, HEIGHT, WIDTH, dtype=F32)
    rope = rope_table(FRAMES, HEIGHT // 2, WIDTH // 2, config.dit.head_dim, META)
    packed = [block.qkv for block in dit.blocks]
    with LiveBytes(list(dit.parameters()), packed, context, latents, condition, rope) as live:
        dit(latents, empty(BRANCHES, dtype=F32), context=context, condition=condition, rope=rope)
    size = {"height": 480, "width": 832, "num_frames": 97, "references": 1, "branches": BRANCHES}
    estimate = activation_bytes(config, **size, dtype=BF16, fused=True, float8=True)
    assert live.peak <= estimate <= 1.3 * live.peak


@torch.no_grad()
def test_frames_alike_fit_the_estimate():
    """Two inputs and as many branches: with more branches the feed-forward holds more than attention does."""
    config, attended = shortened(HUMO_1_7B), []
    dit = make_dit(config)

    def watched(*arguments: Any) -> torch.Tensor:
        attended.append(arguments[3])
        return self_attention_of_alike(*arguments)

    dit.blocks[0].self_attn.alike_function = watched
    context = make_context(config).select(torch.arange(2, device=META), torch.arange(2, device=META))
    latents = empty(2, 16, FRAMES, HEIGHT, WIDTH, dtype=F32)
    rope = rope_table(FRAMES, HEIGHT // 2, WIDTH // 2, config.dit.head_dim, META)
    packed = [block.qkv for block in dit.blocks]
    with LiveBytes(list(dit.parameters()), packed, context, latents, rope) as live:
        dit(latents, empty(2, dtype=F32), context=context, rope=rope, frames_alike=FRAMES - 1)
    size = {"height": 480, "width": 832, "num_frames": 97, "references": 1, "branches": 2}
    estimate = activation_bytes(config, **size, dtype=BF16, fused=True)
    assert live.peak <= estimate <= 1.3 * live.peak
    assert attended == [(FRAMES - 1) * HEIGHT * WIDTH // 4]
