"""Gate, residual, norm and quantisation on the CPU: arithmetic, compilation, export, interpreted Triton code."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels.gate_residual_norm import gate_residual_norm
from humo_rt.kernels.gate_residual_norm_quantize import gate_residual_norm_quantize
from humo_rt.kernels.gate_residual_norm_quantize.cases import CASES, make_inputs
from humo_rt.kernels.quantize_rows import quantize_rows
from humo_rt.kernels.testing import deviation
from tests.kernels import op_checks

CPU = torch.device("cpu")


@pytest.fixture
def inputs():
    return make_inputs((3, 5, 24), torch.bfloat16, CPU)


class TestArithmetic:
    def test_it_is_gate_residual_norm_then_quantisation(self, inputs):
        total, normed = gate_residual_norm(*inputs[:7], torch.float32)
        op_checks.assert_equal(gate_residual_norm_quantize(*inputs), (total, *quantize_rows(normed)))

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation(
            "gate_residual_norm_quantize",
            lambda *args: op_checks.results(gate_residual_norm_quantize(*args)),
            case,
            CPU,
        ).accepted

    @pytest.mark.parametrize("wrong", [0, 1, 2])
    def test_a_wrong_result_is_caught(self, wrong):
        def broken(*args):
            parts = op_checks.results(gate_residual_norm_quantize(*args))
            return tuple(op_checks.enlarged(x) if i == wrong else x for i, x in enumerate(parts))

        assert not deviation("gate_residual_norm_quantize", broken, CASES[2], CPU).accepted


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"residual": torch.ones(5, 24)}, r"residual \(5, 24\) is not \(B, L, D\)"),
            ({"y": torch.ones(3, 5, 23)}, "y.*give the same shape"),
            ({"modulated": False}, r"shift.*give \(24,\)"),
        ],
    )
    def test_a_bad_argument_is_named(self, inputs, changes, message):
        names = ("residual", "y", "gate", "shift", "scale", "modulated", "eps")
        with pytest.raises(ValueError, match=message):
            gate_residual_norm_quantize(*(dict(zip(names, inputs)) | changes).values())


class TestGraphs:
    def test_opcheck(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.gate_residual_norm_quantize.default, inputs)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(gate_residual_norm_quantize, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(gate_residual_norm_quantize, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("gate_residual_norm_quantize")
