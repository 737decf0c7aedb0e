"""Quantisation with one scale on the CPU: arithmetic, registration, compilation, export, interpreted Triton code."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels.quantize_rows import quantize_rows
from humo_rt.kernels.quantize_tensor import quantize_tensor
from humo_rt.kernels.quantize_tensor.cases import CASES, make_inputs
from humo_rt.kernels.testing import deviation
from tests.kernels import op_checks

CPU = torch.device("cpu")


@pytest.fixture
def inputs():
    return make_inputs((3, 5, 24), torch.bfloat16, CPU)


class TestArithmetic:
    def test_it_is_a_row_of_everything(self, inputs):
        x, *_ = inputs
        values, scale, centre = quantize_tensor(x)
        op_checks.assert_equal((values.flatten(), scale), quantize_rows(x.flatten()))
        assert centre.shape == (3, 1, 24)
        assert not centre.any()

    def test_less_the_mean_of_its_tokens(self, inputs):
        x, *_ = inputs
        values, scale, centre = quantize_tensor(x, centred=True)
        op_checks.assert_equal((values.flatten(), scale), quantize_rows((x.float() - centre).flatten()))
        assert torch.equal(centre, x.float().mean(1, keepdim=True))

    def test_rows_of_zeros_change_nothing_else(self, inputs):
        x, *_ = inputs
        values, *others = quantize_tensor(x, centred=True)
        padded, *same = quantize_tensor(x, centred=True, padding=3)
        op_checks.assert_equal((padded[:, :5], *same), (values, *others))
        assert padded.shape == (3, 8, 24)
        assert not padded[:, 5:].float().any()

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation("quantize_tensor", quantize_tensor, case, CPU).accepted

    @pytest.mark.parametrize("wrong", [0, 1, 2])
    def test_a_wrong_result_is_caught(self, wrong):
        def broken(*args):
            return tuple(op_checks.enlarged(x) if i == wrong else x for i, x in enumerate(quantize_tensor(*args)))

        assert not deviation("quantize_tensor", broken, CASES[2], CPU).accepted


class TestRefusals:
    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (torch.ones(3, 5), r"x \(3, 5\) is not \(B, L, D\)"),
            (torch.ones(3, 0, 4), "every axis at least one"),
            (torch.ones(3, 5, 2, dtype=torch.float64), "x is torch.float64"),
        ],
    )
    def test_a_bad_argument_is_named(self, x, message):
        with pytest.raises(ValueError, match=message):
            quantize_tensor(x)

    def test_negative_padding_is_refused(self):
        with pytest.raises(ValueError, match="padding is -1: give the number of rows"):
            quantize_tensor(torch.ones(2, 3, 4), padding=-1)


class TestGraphs:
    def test_opcheck(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.quantize_tensor.default, inputs)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(quantize_tensor, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(quantize_tensor, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("quantize_tensor")
