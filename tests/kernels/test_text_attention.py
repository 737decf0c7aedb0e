"""Text attention on the CPU: against the model, refusals, compilation, export, Triton interpreted."""

from __future__ import annotations

import dataclasses
import math
from unittest import mock

import pytest
import torch

from humo_rt.kernels.testing import Case, deviation, taken
from humo_rt.kernels.text_attention import FEWEST_QUERIES, backend_order, text_attention
from humo_rt.kernels.text_attention.cases import CASES, Sizes, make_inputs
from humo_rt.model.attention import TextAttention
from tests.kernels import op_checks

CPU = torch.device("cpu")
SMALL = Sizes(texts=(3, 5), tokens=9, heads=2, head_dim=8, text_len=12)


@pytest.fixture
def inputs():
    return make_inputs(SMALL, torch.bfloat16, CPU)


class TestArithmetic:
    @pytest.mark.parametrize("length", [0, 5, 11, 12])
    def test_one_key_stands_for_all_padding(self, length):
        """The model attends to every padding token; the op to one of them with the logarithm of their number."""
        torch.manual_seed(0)
        attention, text_len = TextAttention(32, 2, 1e-6).eval(), 12
        torch.nn.init.normal_(attention.norm_q.weight, mean=1.0, std=0.2)
        x, text = torch.randn(1, 7, 32), torch.randn(1, text_len, 32)
        text[:, length:] = torch.randn(32)  # what an embedding makes of zeros: one value for all of them
        keys = min(length + 1, text_len)
        bias = torch.zeros(1, keys)
        if length < text_len:
            bias[:, length] = math.log(text_len - length)
        with torch.no_grad():
            kv = attention.project(text[:, :keys])
            out = text_attention(attention.q(x), attention.norm_q.weight, kv.k, kv.v, bias)
            torch.testing.assert_close(attention.o(out), attention(x, text))

    def test_minus_infinity_leaves_a_key_out(self, inputs):
        q, weight, k, v, _, eps = inputs
        bias = torch.zeros(2, 6)
        bias[:, 4:] = -math.inf
        short = text_attention(q, weight, k[:, :, :4], v[:, :, :4], None, eps)
        assert torch.equal(text_attention(q, weight, k, v, bias, eps), short)

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation("text_attention", text_attention, case, CPU).accepted

    def test_a_missing_bias_is_caught(self):
        def broken(q, weight, k, v, bias, eps):
            return text_attention(q, weight, k, v, None, eps)

        assert not deviation("text_attention", broken, CASES[2], CPU).accepted


class TestRefusals:
    @pytest.mark.parametrize(
        ("position", "change", "message"),
        [
            (0, lambda q: q.double(), "float64.*use float32"),
            (0, lambda q: q[0], "not \\(B, L, D\\)"),
            (0, lambda q: q[:1], "the same batch"),
            (1, lambda weight: weight[1:], "norm weight .* does not fit"),
            (1, lambda weight: weight.half(), "norm weight is torch.float16"),
            (2, lambda k: k[:, :1], "do not fit queries"),
            (2, lambda k: k[:, :, :0], "at least one"),
            (3, lambda v: v[:, :, 1:], "values .* do not fit keys .* one value for each key"),
            (3, lambda v: v.to("meta"), "values on meta, queries on cpu: use one device"),
            (3, lambda v: v.half(), "values .*float16 do not fit"),
            (4, lambda bias: bias[:, 1:], "bias .* does not fit"),
            (4, lambda bias: bias.bfloat16(), "bias is torch.bfloat16"),
        ],
    )
    def test_a_bad_argument_is_named(self, inputs, position, change, message):
        arguments = list(inputs)
        arguments[position] = change(arguments[position])
        with pytest.raises(ValueError, match=message):
            text_attention(*arguments)

    def test_heads_that_no_kernel_takes(self):
        sizes = Sizes(texts=(2,), tokens=2, heads=1, head_dim=300)
        with pytest.raises(ValueError, match="heads of 300 channels are above 256"):
            text_attention(*make_inputs(sizes, torch.float32, CPU))


class TestGraphs:
    def test_opcheck(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.text_attention.default, inputs)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(text_attention, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(text_attention, inputs)


class TestBackends:
    WIDE = dataclasses.replace(SMALL, head_dim=128)

    @pytest.mark.parametrize(
        ("sizes", "dtype", "cuda"),
        [
            (WIDE, torch.bfloat16, True),
            (WIDE, torch.float16, True),
            (WIDE, torch.float32, False),
            (dataclasses.replace(WIDE, texts=(127,), text_len=512), torch.bfloat16, True),
            (dataclasses.replace(WIDE, texts=(128,), text_len=512), torch.bfloat16, False),
            (SMALL, torch.bfloat16, False),
        ],
    )
    def test_what_each_is_written_for(self, sizes, dtype, cuda):
        arguments = make_inputs(sizes, dtype, CPU)
        assert taken("text_attention", "cuda", arguments) == cuda
        assert taken("text_attention", "triton", arguments)
        # Of few queries CUDA's blocks fill no card.
        assert backend_order(*arguments[:3]) == (("triton", "cuda") if cuda else ("triton",))

    def test_many_queries_go_to_cuda(self):
        sizes = dataclasses.replace(self.WIDE, tokens=FEWEST_QUERIES // 4)
        q, weight, k, *_ = make_inputs(sizes, torch.bfloat16, CPU)
        assert backend_order(q, weight, k) == ("cuda", "triton")
        assert backend_order(q[:, 1:], weight, k) == ("triton", "cuda")


@pytest.mark.parametrize("changes", [(), ("FEWEST_QUERIES=0",)], ids=["keys in tiles", "all keys held"])
def test_triton_code_interpreted_on_the_cpu(changes):
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("text_attention", *changes)


@pytest.mark.parametrize("family", ["Ampere", "GeForce Ampere", "Hopper", "GeForce Blackwell"])
def test_the_kernel_that_holds_all_keys_compiles(family):
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be compiled where it is")
    from humo_rt.kernels.text_attention import triton_impl
    from tests.kernels.ahead_of_time import CAPABILITIES, compile_cases

    widest = Sizes(texts=(127,), tokens=64, heads=1, head_dim=128)
    case = Case(name="128 keys", make=lambda device: make_inputs(widest, torch.bfloat16, device))
    with mock.patch.object(triton_impl, "FEWEST_QUERIES", 0):
        assert compile_cases("text_attention", CAPABILITIES[family], [case]) == 2
