"""Row-wise quantisation on the CPU: arithmetic, registration, compilation, export, interpreted Triton code."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels.quantize_rows import quantize_rows, requantize_rows
from humo_rt.kernels.quantize_rows.cases import CASES, make_inputs
from humo_rt.kernels.testing import deviation
from tests.kernels import op_checks

CPU = torch.device("cpu")


@pytest.fixture
def inputs():
    return make_inputs((3, 5, 24), torch.bfloat16, CPU)


class TestArithmetic:
    def test_scale_is_the_largest_value_over_448(self, inputs):
        (x,) = inputs
        values, scale = quantize_rows(x)
        assert torch.equal(scale, x.float().abs().amax(-1, keepdim=True) / 448)
        assert (values.float().abs().amax(-1) == 448).all()

    def test_values_times_scale_are_the_rows(self, inputs):
        (x,) = inputs
        values, scale = quantize_rows(x)
        assert (values.float() * scale - x).abs().max() <= x.abs().max() / 28

    def test_a_row_of_zeros_stays_zeros(self):
        values, scale = quantize_rows(torch.zeros(2, 32))
        assert (values.float() == 0).all()
        assert (scale > 0).all()

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        def run(*args):
            return op_checks.results((quantize_rows if len(args) == 1 else requantize_rows)(*args))

        assert deviation("quantize_rows", run, case, CPU).accepted

    @pytest.mark.parametrize("wrong", [0, 1])
    def test_a_wrong_result_is_caught(self, wrong):
        def broken(*args):
            return tuple(op_checks.enlarged(x) if i == wrong else x for i, x in enumerate(quantize_rows(*args)))

        assert not deviation("quantize_rows", broken, CASES[2], CPU).accepted


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
            quantize_rows(x)

    def test_a_bad_argument_beside_e4m3_values_is_named(self):
        given, factor, centre = torch.ones(2, 3, 4).to(torch.float8_e4m3fn), torch.ones(1), torch.ones(2, 1, 4)
        for arguments, message in (
            ((given.float(), factor, centre), r"given is torch.float32 \(2, 3, 4\): give e4m3"),
            ((given[0], factor, centre), r"given is torch.float8_e4m3fn \(3, 4\)"),
            ((given, torch.ones(2), centre), "factor is not one float32 number"),
            ((given, factor, torch.ones(1, 1, 4)), r"centre is torch.float32 \(1, 1, 4\): give float32"),
            ((given, factor, centre.double()), "centre is torch.float64"),
        ):
            with pytest.raises(ValueError, match=message):
                requantize_rows(*arguments)


class TestGraphs:
    def test_opcheck(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.quantize_rows.default, inputs)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(quantize_rows, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(quantize_rows, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("quantize_rows")
