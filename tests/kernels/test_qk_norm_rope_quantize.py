"""Norm, rotation and quantisation of q and k on the CPU: arithmetic, compilation, export, interpreted Triton code."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels.float8 import half_step
from humo_rt.kernels.qk_norm_rope import qk_norm_rope
from humo_rt.kernels.qk_norm_rope_quantize import bound_scale, qk_norm_rope_quantize
from humo_rt.kernels.qk_norm_rope_quantize.cases import CASES, make_inputs
from humo_rt.kernels.testing import deviation
from tests.kernels import op_checks

CPU = torch.device("cpu")


@pytest.fixture
def inputs():
    return make_inputs((3, 5, 2, 8), torch.bfloat16, CPU)


class TestArithmetic:
    def test_values_times_scale_are_what_qk_norm_rope_returns(self, inputs):
        *plain, scale_q, scale_k, _ = inputs
        exact = qk_norm_rope(*(x.float() if isinstance(x, torch.Tensor) else x for x in plain))
        for values, scale, true in zip(qk_norm_rope_quantize(*inputs), (scale_q, scale_k), exact, strict=True):
            allowed = half_step(true / scale) * scale + 1e-5
            assert ((values.float() * scale - true).abs() <= allowed).all()

    def test_rows_of_zeros_after_the_keys_change_nothing_else(self, inputs):
        q, k = qk_norm_rope_quantize(*inputs)
        same_q, padded = qk_norm_rope_quantize(*inputs[:-1], 3)
        op_checks.assert_equal((same_q, padded[:, :5]), (q, k))
        assert padded.shape == (3, 8, 2, 8)
        assert not padded[:, 5:].float().any()

    @pytest.mark.parametrize("width", [24, 1536, 5120])
    def test_nothing_saturates_not_even_a_single_spike(self, width):
        heads = width // 8
        q = torch.zeros(1, 2, width)
        q[0, 0, 3], q[0, 1, 4:6] = 1e4, -1e4
        weight = torch.linspace(-2, 1.5, width)
        angle = torch.full((2, 4), 0.7853)
        scale = bound_scale(weight)
        given = (q, q, weight, weight, angle.cos(), angle.sin(), heads, 1e-6)
        assert all(x.abs().max() <= 448.01 * scale for x in qk_norm_rope(*given))
        assert all(values.float().isfinite().all() for values in qk_norm_rope_quantize(*given, scale, scale))

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation("qk_norm_rope_quantize", qk_norm_rope_quantize, case, CPU).accepted

    @pytest.mark.parametrize("wrong", [0, 1])
    def test_a_wrong_result_is_caught(self, wrong):
        def broken(*args):
            return tuple(op_checks.enlarged(x) if i == wrong else x for i, x in enumerate(qk_norm_rope_quantize(*args)))

        assert not deviation("qk_norm_rope_quantize", broken, CASES[2], CPU).accepted


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"q": torch.ones(5, 16)}, r"q \(5, 16\) is not \(B, L, D\)"),
            ({"scale_q": torch.ones(2)}, "scale_q is not one float32 number"),
            ({"scale_k": torch.ones(1, dtype=torch.bfloat16)}, "scale_k is not one float32 number"),
            ({"padding": -2}, "padding is -2: give the number of rows"),
        ],
    )
    def test_a_bad_argument_is_named(self, inputs, changes, message):
        names = ("q", "k", "weight_q", "weight_k", "cos", "sin", "num_heads", "eps", "scale_q", "scale_k", "padding")
        with pytest.raises(ValueError, match=message):
            qk_norm_rope_quantize(*(dict(zip(names, inputs)) | changes).values())


class TestGraphs:
    def test_opcheck(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.qk_norm_rope_quantize.default, inputs)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(qk_norm_rope_quantize, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(qk_norm_rope_quantize, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("qk_norm_rope_quantize")
