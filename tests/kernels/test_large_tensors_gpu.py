"""Tensors of more than 2**31 elements on a GPU: their end equals the same computed alone, with every backend.

Each test states in GiB what it needs; zeros fill what lies before the end.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from humo_rt.kernels.adaln_modulate import adaln_modulate
from humo_rt.kernels.adaln_modulate_quantize import adaln_modulate_quantize
from humo_rt.kernels.audio_face_attention import audio_face_attention
from humo_rt.kernels.audio_face_attention.cases import Sizes as AudioSizes
from humo_rt.kernels.audio_face_probabilities import audio_face_probabilities
from humo_rt.kernels.causal_conv import causal_conv
from humo_rt.kernels.causal_conv.cases import Shape as ConvShape
from humo_rt.kernels.gate_residual_norm import gate_residual_norm
from humo_rt.kernels.gather_norm import gather_norm
from humo_rt.kernels.gelu_quantize import gelu_quantize
from humo_rt.kernels.guided_update import guided_update
from humo_rt.kernels.merge_attention import merge_attention
from humo_rt.kernels.qk_norm_rope import qk_norm_rope
from humo_rt.kernels.quantize_rows import quantize_rows
from humo_rt.kernels.quantize_tensor import quantize_tensor
from humo_rt.kernels.residual_norm import residual_norm
from humo_rt.kernels.rms_silu import rms_silu
from humo_rt.kernels.scatter_residual_norm import scatter_residual_norm
from humo_rt.kernels.testing import taken
from humo_rt.kernels.text_attention import text_attention
from humo_rt.kernels.text_attention.cases import Sizes as TextSizes
from tests.kernels import op_checks
from tests.kernels.op_checks import backends_of

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
TWO_FRAMES = AudioSizes(frames=2, tokens=64, heads=2, head_dim=64)
needs = pytest.mark.gpu_memory


def make_inputs(op: str, sizes: Any) -> tuple[Any, ...]:
    return importlib.import_module(f"humo_rt.kernels.{op}.cases").make_inputs(sizes, torch.bfloat16, CUDA)


@needs(9)
@backends_of("adaln_modulate")
def test_adaln_modulate(backend):
    *_, shift, scale, eps, dtype = make_inputs("adaln_modulate", (1, 1, 256))
    x = torch.zeros(2, 2**22 + 8, 256, dtype=torch.bfloat16, device=CUDA)
    x[1, -8:] = torch.randn(8, 256, device=CUDA)
    result = adaln_modulate(x, shift, scale, eps, dtype)
    assert torch.equal(result[1:, -1000:], adaln_modulate(x[1:, -1000:], shift, scale, eps, dtype))


@needs(7)
@backends_of("adaln_modulate_quantize")
def test_adaln_modulate_quantize(backend):
    *_, shift, scale, eps = make_inputs("adaln_modulate_quantize", (1, 1, 256))
    x = torch.zeros(2, 2**22 + 8, 256, dtype=torch.bfloat16, device=CUDA)
    x[1, -8:] = torch.randn(8, 256, device=CUDA)
    values, row_scale = adaln_modulate_quantize(x, shift, scale, eps)
    expected = adaln_modulate_quantize(x[1:, -1000:], shift, scale, eps)
    op_checks.assert_equal((values[1:, -1000:], row_scale[1:, -1000:]), expected)


@needs(9)
@backends_of("audio_face_attention")
def test_audio_face_attention(backend):
    """The last frame of a large input equals the same frame alone."""
    q, weight, k, v, _, eps = make_inputs("audio_face_attention", TWO_FRAMES)
    tokens = 2**30 // 128 + 64  # of one frame; two frames of 128 channels exceed 2**31 elements
    large = torch.zeros(1, 2 * tokens, 128, dtype=torch.bfloat16, device=CUDA)
    large[:, -64:] = q[:, -64:]
    expected = audio_face_attention(q, weight, k, v, None, eps)
    assert torch.equal(audio_face_attention(large, weight, k, v, None, eps)[:, -64:], expected[:, -64:])


@needs(9)
@backends_of("audio_face_probabilities")
def test_audio_face_probabilities(backend):
    """The last frame of a large input equals the same frame alone."""
    q, weight, k, _, eps = make_inputs("audio_face_probabilities", TWO_FRAMES)
    tokens = 2**30 // 128 + 64  # of one frame; two frames of 128 channels exceed 2**31 elements
    large = torch.zeros(1, 2 * tokens, 128, dtype=torch.bfloat16, device=CUDA)
    large[:, -64:] = q[:, -64:]
    expected = audio_face_probabilities(q, weight, k, None, eps)
    assert torch.equal(audio_face_probabilities(large, weight, k, None, eps)[:, -64:], expected[:, -64:])


@needs(10)
@backends_of("causal_conv")
def test_causal_conv(backend):
    weight, bias = make_inputs("causal_conv", ConvShape(1, 1, 1, 96, 96))[1:3]
    x = torch.zeros(1, 60, 482, 834, 96, dtype=torch.bfloat16, device=CUDA)
    x[:, -3:, 1:-1, 1:-1] = torch.randn(480, 832, 96, device=CUDA)
    op_checks.assert_equal(causal_conv(x, weight, bias, None)[:, -1:], causal_conv(x[:, -3:], weight, bias, None))


@pytest.mark.parametrize("earlier", [pytest.param(False, marks=needs(17)), pytest.param(True, marks=needs(21))])
@backends_of("gate_residual_norm")
def test_gate_residual_norm(backend, earlier):
    *_, gate, shift, scale, modulated, eps, dtype = make_inputs("gate_residual_norm", (1, 1, 256))
    residual = torch.zeros(2, 2**22 + 8, 256, dtype=torch.bfloat16, device=CUDA)
    residual[1, -8:] = torch.randn(8, 256, device=CUDA)
    y = residual.flip(-1)
    vectors = (gate, shift, scale, modulated, eps, dtype)
    before = residual.roll(1, dims=-1) if earlier else None
    result = gate_residual_norm(residual, y, *vectors, before)
    before = before[1:, -1000:] if earlier else None
    expected = gate_residual_norm(residual[1:, -1000:], y[1:, -1000:], *vectors, before)
    op_checks.assert_equal([each[1:, -1000:] for each in result], expected)


@needs(5)
@backends_of("gather_norm")
def test_gather_norm(backend):
    _, _, shift, scale, eps, dtype = make_inputs("gather_norm", (1, 1, 256))
    x = torch.zeros(2, 2**22 + 8, 256, dtype=torch.bfloat16, device=CUDA)
    x[1, -8:] = torch.randn(8, 256, device=CUDA)
    last = torch.arange(8, device=CUDA)
    result = gather_norm(x, last + 2**22, shift, scale, eps, dtype)
    assert torch.equal(result[1:], gather_norm(x[1:, -8:], last, shift, scale, eps, dtype))


@needs(8)
@backends_of("gelu_quantize")
def test_gelu_quantize(backend):
    x = torch.zeros(2**18 + 8, 8960, dtype=torch.bfloat16, device=CUDA)
    x[-8:] = torch.randn(8, 8960, device=CUDA)
    values, scale = gelu_quantize(x)
    op_checks.assert_equal((values[-1000:], scale[-1000:]), gelu_quantize(x[-1000:]))


@needs(14)
@backends_of("guided_update")
def test_guided_update(backend):
    count = 2**29 + 8
    velocity = torch.zeros(5, count, dtype=torch.bfloat16, device=CUDA)
    velocity[:, -8:] = 1
    latents = torch.zeros(count, device=CUDA)
    latents[-8:] = 1
    weights, coefficients = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0], device=CUDA), torch.ones(3, 5, device=CUDA)
    for result in guided_update(velocity, weights, latents, latents, latents, latents, coefficients):
        assert result[-9:].tolist() == [0.0] + [35.0] * 8


@needs(14)
@pytest.mark.parametrize("samples", [1, 2])
@backends_of("merge_attention")
def test_merge_attention(backend, samples):
    """The last tokens of a large input equal the same tokens alone; the first keys serve one sample or all."""
    length = 2**22 + 8
    first = torch.zeros(samples, length, 2, 128, dtype=torch.bfloat16, device=CUDA)
    second = torch.zeros(2, length, 2, 128, dtype=torch.bfloat16, device=CUDA)
    first_lse, second_lse = torch.zeros(samples, 2, length, device=CUDA), torch.zeros(2, 2, length, device=CUDA)
    for each in (first, second):
        each[-1, -8:] = torch.randn(8, 2, 128, device=CUDA)
    for each in (first_lse, second_lse):
        each[-1, :, -8:] = torch.randn(2, 8, device=CUDA)
    result = merge_attention(first, first_lse, second, second_lse)
    alone = (first[-1:, -1000:], first_lse[-1:, :, -1000:], second[-1:, -1000:], second_lse[-1:, :, -1000:])
    assert torch.equal(result[-1:, -1000:], merge_attention(*alone))


@needs(20)
@backends_of("qk_norm_rope")
def test_qk_norm_rope(backend):
    _, _, weight_q, weight_k, *_ = make_inputs("qk_norm_rope", (1, 1, 2, 128))
    length = 2**22 + 8
    qk = torch.zeros(2, length, 512, dtype=torch.bfloat16, device=CUDA)
    qk[1, -8:] = torch.randn(8, 512, device=CUDA)
    q, k = qk.split(256, dim=-1)
    cos, sin = (torch.rand(length, 64, device=CUDA) for _ in range(2))
    result = qk_norm_rope(q, k, weight_q, weight_k, cos, sin, 2, 1e-6)
    expected = qk_norm_rope(q[1:, -8:], k[1:, -8:], weight_q, weight_k, cos[-8:], sin[-8:], 2, 1e-6)
    op_checks.assert_equal([each[1:, -8:] for each in result], expected)


@needs(7)
@backends_of("quantize_rows")
def test_quantize_rows(backend):
    x = torch.zeros(2**23 + 8, 256, dtype=torch.bfloat16, device=CUDA)
    x[-8:] = torch.randn(8, 256, device=CUDA)
    values, scale = quantize_rows(x)
    op_checks.assert_equal((values[-1000:], scale[-1000:]), quantize_rows(x[-1000:]))


@needs(7)
@backends_of("quantize_tensor")
def test_quantize_tensor(backend):
    x = torch.zeros(2, 2**22 + 8, 256, dtype=torch.bfloat16, device=CUDA)
    x[1, -8:] = torch.randn(8, 256, device=CUDA)
    values, scale, _ = quantize_tensor(x)
    op_checks.assert_equal((values[1:, -1000:], scale), quantize_tensor(x[1:, -1000:])[:2])


@needs(9)
@backends_of("quantize_tensor")
def test_quantize_tensor_centred_and_padded(backend):
    x = torch.randn(2, 2**22 + 8, 256, dtype=torch.bfloat16, device=CUDA)
    values, scale, centre = quantize_tensor(x, centred=True, padding=5)
    assert not values[:, -5:].view(torch.uint8).any()
    found = values[:, -1005:-5].float() * scale + centre
    assert (found - x[:, -1000:].float()).abs().max() <= 448 / 16 * scale  # e4m3 errs by 1/16 at most


@needs(13)
@backends_of("residual_norm")
def test_residual_norm(backend):
    *_, shift, scale, modulated, eps, dtype = make_inputs("residual_norm", (1, 1, 256))
    residual = torch.zeros(2, 2**22 + 8, 256, dtype=torch.bfloat16, device=CUDA)
    residual[1, -8:] = torch.randn(8, 256, device=CUDA)
    y = residual.flip(-1)
    result = residual_norm(residual, y, shift, scale, modulated, eps, dtype)
    expected = residual_norm(residual[1:, -1000:], y[1:, -1000:], shift, scale, modulated, eps, dtype)
    assert torch.equal(result[1:, -1000:], expected)


@needs(9)
@backends_of("rms_silu")
def test_rms_silu(backend):
    gamma = torch.rand(96, dtype=torch.bfloat16, device=CUDA)
    x = torch.zeros(1, 58, 482, 834, 96, dtype=torch.bfloat16, device=CUDA)
    x[:, -1] = torch.randn(482, 834, 96, device=CUDA)
    op_checks.assert_equal(rms_silu(x, gamma, x[:, :2])[:, -1:], rms_silu(x[:, -1:], gamma, None))


@needs(10)
@backends_of("scatter_residual_norm")
def test_scatter_residual_norm(backend):
    shift, scale = torch.randn(2, 1, 1, 256, device=CUDA)
    residual, normed = torch.zeros(2, 2, 2**22 + 8, 256, dtype=torch.bfloat16, device=CUDA)
    y = torch.randn(2, 8, 256, device=CUDA)
    last = torch.arange(8, device=CUDA)
    alone = residual[1:, -8:].clone(), normed[1:, -8:].clone()
    scatter_residual_norm(residual, normed, y, last + 2**22, shift, scale, 1e-6)
    scatter_residual_norm(*alone, y[1:], last, shift, scale, 1e-6)
    op_checks.assert_equal((residual[1:, -8:], normed[1:, -8:]), alone)


@needs(9)
@pytest.mark.parametrize("text", [9, 200])
@backends_of("text_attention")
def test_text_attention(backend, text):
    """The last tokens of a large input equal the same among fewer, in number enough for the same kernel."""
    sizes = TextSizes(texts=(text,), tokens=64, heads=1, head_dim=128)
    q, *others = make_inputs("text_attention", sizes)
    if not taken("text_attention", backend, (q, *others)):
        pytest.skip(f"text attention in {backend} is not written for a text of {text} tokens")
    large = torch.zeros(1, 2**24 + 64, 128, dtype=torch.bfloat16, device=CUDA)
    large[:, -64:] = q
    expected = text_attention(large[:, -(2**18) :], *others)[:, -64:]
    assert torch.equal(text_attention(large, *others)[:, -64:], expected)
