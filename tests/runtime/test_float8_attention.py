"""Attention in float8 on the CPU, through a module that stands for cuDNN's: scales, layouts, plans, refusals."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from humo_rt.kernels.quantize_tensor import quantize_tensor
from humo_rt.runtime import attention_backends, float8_attention
from humo_rt.runtime.attention_backends import CUDNN_FP8, choose, unavailable
from tests.runtime import fake_cudnn
from tests.runtime.test_attention_backends import make_qkv

BF16 = torch.bfloat16
CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def nothing_remembered():
    caches = (
        float8_attention.frontend,
        float8_attention._handle,
        float8_attention._graph,
        attention_backends._missing,
        attention_backends._say_unused,
    )
    for remembered in caches:
        remembered.cache_clear()
    yield
    for remembered in caches:
        remembered.cache_clear()


@pytest.fixture
def cudnn(monkeypatch):
    return fake_cudnn.install(monkeypatch)


def as_slice(x: Tensor) -> Tensor:
    """The same values with others beside them in memory."""
    wide = torch.zeros(*x.shape[:2], 2 * x.shape[2], x.shape[3]).to(x.dtype)
    wide[:, :, : x.shape[2]] = x
    return wide[:, :, : x.shape[2]]


class TestArithmetic:
    @pytest.mark.parametrize("size", [0.01, 1.0, 50.0])
    def test_it_is_attention_up_to_e4m3(self, cudnn, size):
        q, k, v = make_qkv(tokens=64, head_dim=16, dtype=torch.float32)
        v = v * size
        result = float8_attention.float8_attention(q, k, v)
        expected = F.scaled_dot_product_attention(q, k, v)
        assert result.dtype == q.dtype
        assert result.transpose(1, 2).is_contiguous()
        assert (result - expected).norm() <= 0.06 * expected.norm()

    def test_what_all_values_have_in_common_is_not_rounded(self, cudnn):
        q, k, v = make_qkv(tokens=64, head_dim=16, dtype=torch.float32)
        common = torch.linspace(-50, 50, v.shape[1] * 16).view(1, -1, 1, 16)
        torch.testing.assert_close(float8_attention.float8_attention(q, k, common.expand_as(v)), common.expand_as(v))
        errors = []
        for values in (v, v + common):
            expected = F.scaled_dot_product_attention(q, k, values)
            errors.append((float8_attention.float8_attention(q, k, values) - expected).norm())
        assert errors[1] <= 1.01 * errors[0]

    def test_values_do_not_saturate(self, cudnn):
        """The first key draws nearly all: the result is its value, the largest there is."""
        q, k, v = make_qkv(tokens=64, head_dim=16, dtype=torch.float32)
        q, k, v = torch.ones_like(q), torch.zeros_like(k), v * 0.01
        k[:, :, 0], v[:, :, 0] = 10, 3.3
        expected = F.scaled_dot_product_attention(q, k, v)
        torch.testing.assert_close(float8_attention.float8_attention(q, k, v), expected, rtol=1 / 8, atol=0)

    def test_values_without_anything_in_common_lose_nothing(self, cudnn):
        """Each result is far smaller than a value: the mean has to be exact beside it."""
        q, k, v = (torch.randn(1, 2, 4096, 16) for _ in range(3))
        result, expected = float8_attention.float8_attention(q, k, v), F.scaled_dot_product_attention(q, k, v)
        assert (result - expected).norm() <= 0.07 * expected.norm()

    def test_fewer_queries_than_keys_attend_to_all_keys(self, cudnn):
        q, k, v = make_qkv(tokens=64, head_dim=16, dtype=torch.float32)
        expected = F.scaled_dot_product_attention(q[:, :, :20], k, v)
        result = float8_attention.float8_attention(q[:, :, :20], k, v)
        assert result.shape == expected.shape
        assert (result - expected).norm() <= 0.06 * expected.norm()

    def test_rows_after_the_tokens_count_for_nothing(self, cudnn):
        q, k, v = (
            quantize_tensor(x.transpose(1, 2).flatten(2), padding=padding)[:2]
            for x, padding in zip(make_qkv(tokens=64, head_dim=16, dtype=torch.float32), (0, 192, 192), strict=True)
        )
        (q, *scale_q), (k, *scale_k), (v, *scale_v) = ((x.unflatten(2, (3, 16)), scale) for x, scale in (q, k, v))
        expected, _ = float8_attention.attend_quantized((q, *scale_q), (k, *scale_k), (v, *scale_v))
        k[:, 64:], v[:, 64:] = 448, 448
        result, _ = float8_attention.attend_quantized((q, *scale_q), (k, *scale_k), (v, *scale_v))
        assert torch.equal(result.float(), expected.float())
        (graph,) = fake_cudnn.FakeGraph.built
        assert graph.tensors["k"].dim[2] == graph.tensors["v"].dim[2] == 256

    @pytest.mark.parametrize(("keys", "values"), [(4, 4), (8, 6)])
    def test_fewer_keys_or_values_than_count_are_refused(self, keys, values):
        q, k, v = ((torch.empty(2, rows, 3, 16), torch.ones(1)) for rows in (5, keys, values))
        with pytest.raises(ValueError, match=rf"k \(2, {keys}, 3, 16\), v \(2, {values}, 3, 16\): keys and values are"):
            float8_attention.attend_quantized(q, k, v)

    def test_quantised_inputs_in_any_layout(self, cudnn):
        parts = [quantize_tensor(x.transpose(1, 2).flatten(2)) for x in make_qkv(head_dim=16, dtype=torch.float32)]
        dense = [(x.unflatten(2, (3, 16)), scale) for x, scale, _ in parts]
        strided = [(as_slice(x), scale) for x, scale in dense]
        for a, b in zip(
            float8_attention.attend_quantized(*dense), float8_attention.attend_quantized(*strided), strict=True
        ):
            assert torch.equal(a.float(), b.float())


class TestPlans:
    def test_one_plan_for_each_shape(self, cudnn):
        for tokens in (4, 4, 8, 4):
            qkv = make_qkv(tokens=tokens, head_dim=16, dtype=torch.float32)
            float8_attention.float8_attention(*qkv)
        assert [graph.runs for graph in fake_cudnn.FakeGraph.built] == [3, 1]

    def test_traces_without_the_package(self):
        q, scale = torch.empty(2, 5, 3, 16, dtype=torch.float8_e4m3fn, device="meta"), torch.empty(1, device="meta")
        out, out_scale = float8_attention.attend_quantized((q, scale), (q, scale), (q, scale))
        assert (out.shape, out.dtype, out_scale.shape) == (q.shape, q.dtype, (1,))


class TestChoice:
    def test_a_missing_package_comes_with_the_line_that_installs_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cudnn", None)
        with pytest.raises(RuntimeError) as caught:
            choose(CUDNN_FP8, CARD, BF16, 128)
        assert str(caught.value) == f"attention_backend 'cudnn-fp8' is not installed: {float8_attention.INSTALL}"

    @pytest.mark.parametrize(
        ("device", "dtype", "head_dim", "message"),
        [
            (CPU, BF16, 128, "needs an NVIDIA GPU, not cpu"),
            (CARD, torch.float32, 128, "takes bfloat16, float16, not float32"),
            (CARD, BF16, 72, "multiple of 16 up to 256, not 72"),
        ],
    )
    def test_what_it_does_not_take(self, device, dtype, head_dim, message):
        with pytest.raises(ValueError, match=f"attention_backend 'cudnn-fp8' .*{message}"):
            choose(CUDNN_FP8, device, dtype, head_dim)

    def test_a_card_without_it(self, cudnn, monkeypatch):
        def refuse(*_):
            raise RuntimeError("sdpa fp8 forward operation is only supported on Hopper")

        monkeypatch.setattr(attention_backends, "_try", refuse)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Test Card")
        expected = "does not work on Test Card: sdpa fp8 forward operation is only supported on Hopper"
        assert unavailable(CUDNN_FP8, CARD, BF16, 128) == expected

    def test_auto_takes_it_where_the_rest_is_lossy_and_only_there(self, cudnn, monkeypatch):
        monkeypatch.setattr(attention_backends, "_try", lambda *_: None)
        assert choose("auto", CARD, BF16, 128) != CUDNN_FP8
        assert choose("auto", CARD, BF16, 128, lossy=True) == CUDNN_FP8
