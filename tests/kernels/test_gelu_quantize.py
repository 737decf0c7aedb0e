"""GELU and quantisation on the CPU: arithmetic, registration, compilation, export, interpreted Triton code."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from humo_rt.kernels.gelu_quantize import gelu_quantize
from humo_rt.kernels.gelu_quantize.cases import CASES, make_inputs
from humo_rt.kernels.quantize_rows import quantize_rows
from humo_rt.kernels.testing import deviation
from tests.kernels import op_checks

CPU = torch.device("cpu")


@pytest.fixture
def inputs():
    return make_inputs((3, 5, 24), torch.bfloat16, CPU)


class TestArithmetic:
    def test_it_is_gelu_then_quantisation(self, inputs):
        (x,) = inputs
        op_checks.assert_equal(gelu_quantize(x), quantize_rows(F.gelu(x.float(), approximate="tanh")))

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation("gelu_quantize", lambda *args: op_checks.results(gelu_quantize(*args)), case, CPU).accepted

    @pytest.mark.parametrize("wrong", [0, 1])
    def test_a_wrong_result_is_caught(self, wrong):
        def broken(*args):
            return tuple(op_checks.enlarged(x) if i == wrong else x for i, x in enumerate(gelu_quantize(*args)))

        assert not deviation("gelu_quantize", broken, CASES[2], CPU).accepted


class TestRefusals:
    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (torch.ones(()), r"x \(\) is not \(\.\.\., D\)"),
            (torch.ones(3, 0), "every axis at least one"),
            (torch.ones(3, 5, dtype=torch.float64), "x is torch.float64"),
        ],
    )
    def test_a_bad_argument_is_named(self, x, message):
        with pytest.raises(ValueError, match=message):
            gelu_quantize(x)


class TestGraphs:
    def test_opcheck(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.gelu_quantize.default, inputs)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(gelu_quantize, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(gelu_quantize, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("gelu_quantize")
