"""Residual and norm of some rows in place, on the CPU: arithmetic, compilation, export, interpreted Triton code."""

from __future__ import annotations

import copy

import pytest
import torch

from humo_rt.kernels.float8 import QuantizedRows
from humo_rt.kernels.gate_residual_norm import gate_residual_norm
from humo_rt.kernels.quantize_rows import quantize_rows
from humo_rt.kernels.scatter_residual_norm import scatter_residual_norm
from humo_rt.kernels.scatter_residual_norm.cases import CASES, make_inputs
from humo_rt.kernels.testing import deviation
from tests.kernels import op_checks

CPU = torch.device("cpu")


@pytest.fixture
def inputs():
    return make_inputs((3, 9, 24), torch.bfloat16, CPU, share=0.5)


def changed(residual, values, scales, *rest):
    """The op with the arguments of its cases; what it changed."""
    scatter_residual_norm(residual, values if scales is None else QuantizedRows(values, scales), *rest)
    return (residual, values) if scales is None else (residual, values, scales)


def map_widened(tensors):
    return [op_checks.widened(each) for each in tensors]


class TestArithmetic:
    @pytest.mark.parametrize("in_e4m3", [False, True])
    def test_rows_are_those_of_gate_residual_norm_and_others_stay(self, in_e4m3):
        inputs = make_inputs((3, 9, 24), torch.bfloat16, CPU, share=0.5, in_e4m3=in_e4m3)
        residual, values, scales, y, rows, shift, scale, eps = copy.deepcopy(inputs)
        found = changed(*copy.deepcopy(inputs))
        dtype = torch.float32 if in_e4m3 else torch.bfloat16
        total, normed = gate_residual_norm(residual[:, rows], y, None, shift, scale, True, eps, dtype)
        expected = (total, *quantize_rows(normed)) if in_e4m3 else (total, normed)
        op_checks.assert_equal([each[:, rows] for each in map_widened(found)], map_widened(expected))
        others = [row for row in range(9) if row not in rows.tolist()]
        before = (residual, values, scales)[: len(found)]
        op_checks.assert_equal(
            [each[:, others] for each in map_widened(found)], [each[:, others] for each in map_widened(before)]
        )

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation("scatter_residual_norm", changed, case, CPU).accepted

    @pytest.mark.parametrize("wrong", [0, 1])
    def test_a_wrong_result_is_caught(self, wrong):
        def broken(*args):
            return tuple(op_checks.enlarged(x) if i == wrong else x for i, x in enumerate(changed(*args)))

        assert not deviation("scatter_residual_norm", broken, CASES[2], CPU).accepted


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"residual": torch.ones(9, 24)}, r"residual \(9, 24\) is not \(B, L, D\)"),
            ({"residual": torch.ones(3, 24, 9).transpose(1, 2)}, "residual.*changed in place: give it contiguous"),
            ({"normed": torch.ones(3, 8, 24)}, "normed.*give the same"),
            ({"normed": torch.ones(3, 9, 24, dtype=torch.float8_e4m3fn)}, "e4m3 with its scales"),
            ({"normed": QuantizedRows(torch.ones(3, 9, 24), torch.ones(3, 9, 1))}, "e4m3 with its scales"),
            (
                {"normed": QuantizedRows(torch.ones(3, 9, 24).to(torch.float8_e4m3fn), torch.ones(3, 8, 1))},
                r"scales of normed are torch.float32 \(3, 8, 1\) on cpu: give float32 \(3, 9, 1\)",
            ),
            ({"y": torch.ones(3, 9, 24)}, r"y.*give \(3, 4, 24\)"),
            ({"rows": torch.ones(4)}, "rows.*give int64"),
            ({"shift": torch.ones(24)}, r"shift.*give \(B or 1, 1, 24\)"),
        ],
    )
    def test_a_bad_argument_is_named(self, inputs, changes, message):
        names = ("residual", "normed", "y", "rows", "shift", "scale", "eps")
        residual, normed, _, *rest = inputs
        with pytest.raises(ValueError, match=message):
            scatter_residual_norm(*(dict(zip(names, (residual, normed, *rest))) | changes).values())


class TestGraphs:
    def test_opcheck(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.scatter_residual_norm.default, inputs)

    def test_opcheck_in_e4m3(self):
        """Without the test of the schema, which multiplies what an op changes: e4m3 knows no arithmetic."""
        inputs = make_inputs((3, 9, 24), torch.bfloat16, CPU, in_e4m3=True)
        tests = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
        torch.library.opcheck(torch.ops.humo_rt.scatter_residual_norm.default, inputs, test_utils=tests)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(changed, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(changed, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("scatter_residual_norm")
