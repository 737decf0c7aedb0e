"""The norm of a sum that is not kept, on the CPU: with what adds it later, registration, graphs, interpreted code."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels.gate_residual_norm import gate_residual_norm
from humo_rt.kernels.residual_norm import residual_norm
from humo_rt.kernels.residual_norm.cases import CASES, make_inputs
from humo_rt.kernels.testing import deviation
from tests.kernels import op_checks

CPU = torch.device("cpu")


@pytest.fixture
def inputs():
    return make_inputs((3, 5, 24), torch.bfloat16, CPU)


class TestArithmetic:
    @pytest.mark.parametrize("modulated", [False, True])
    def test_two_residuals_at_once_are_two_one_after_the_other(self, modulated):
        stream, first, *norm = make_inputs((3, 5, 24), torch.bfloat16, CPU, modulated=modulated)
        second = first.flip(1)
        total, before = gate_residual_norm(stream, first, None, *norm)
        expected = gate_residual_norm(total, second, None, *norm)
        assert torch.equal(residual_norm(stream, first, *norm), before)
        op_checks.assert_equal(gate_residual_norm(stream, second, None, *norm, first), expected)

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation("residual_norm", residual_norm, case, CPU).accepted

    def test_a_wrong_result_is_caught(self):
        assert not deviation("residual_norm", lambda *args: residual_norm(*args) * 1.001, CASES[2], CPU).accepted


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"residual_BLD": torch.ones(5, 24)}, r"residual \(5, 24\) is not \(B, L, D\)"),
            ({"y_BLD": torch.ones(3, 5, 23)}, "y.*give the same shape"),
            ({"shift": torch.ones(1, 1, 24)}, r"shift.*give \(24,\)"),
            ({"dtype": torch.int8}, "out is torch.int8"),
        ],
    )
    def test_a_bad_argument_is_named(self, inputs, changes, message):
        names = ("residual_BLD", "y_BLD", "shift", "scale", "modulated", "eps", "dtype")
        with pytest.raises(ValueError, match=message):
            residual_norm(**(dict(zip(names, inputs)) | changes))


class TestGraphs:
    def test_opcheck(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.residual_norm.default, inputs)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(residual_norm, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(residual_norm, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("residual_norm")
