"""Gate, residual and norm on the CPU: arithmetic, registration, compilation, export, interpreted Triton code."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels.gate_residual_norm import gate_residual_norm
from humo_rt.kernels.gate_residual_norm.cases import CASES, make_inputs, with_earlier
from humo_rt.kernels.testing import deviation
from humo_rt.model.block import modulate
from humo_rt.model.layers import LayerNorm
from tests.kernels import op_checks

CPU = torch.device("cpu")


@pytest.fixture
def inputs():
    return make_inputs((3, 5, 24), torch.bfloat16, CPU)


class TestArithmetic:
    def test_gated_and_modulated_as_a_block_computes(self):
        residual, y, gate, shift, scale, _, eps, _ = make_inputs((3, 5, 24), torch.float32, CPU)
        total = residual + gate * y
        expected = modulate(LayerNorm(24, eps=eps, elementwise_affine=False)(total), shift, scale)
        actual = gate_residual_norm(residual, y, gate, shift, scale, True, eps, torch.float32)
        op_checks.assert_equal(actual, (total, expected))

    def test_plain_residual_and_affine_norm_as_a_block_computes(self):
        residual, y, _, _, _, _, eps, _ = make_inputs((3, 5, 24), torch.float32, CPU)
        norm = LayerNorm(24, eps=eps)
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
        with torch.no_grad():
            actual = gate_residual_norm(residual, y, None, norm.bias, norm.weight, False, eps, torch.float32)
            torch.testing.assert_close(actual, (residual + y, norm(residual + y)))

    def test_the_stream_keeps_its_dtype(self, inputs):
        residual, *rest = inputs
        assert [each.dtype for each in gate_residual_norm(residual, *rest)] == [torch.float32, torch.bfloat16]
        assert gate_residual_norm(residual.half(), *rest)[0].dtype == torch.float16

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation("gate_residual_norm", gate_residual_norm, case, CPU).accepted

    @pytest.mark.parametrize("wrong", [0, 1])
    def test_a_wrong_result_is_caught(self, wrong):
        def broken(*args):
            return tuple(x * 1.001 if i == wrong else x for i, x in enumerate(gate_residual_norm(*args)))

        assert not deviation("gate_residual_norm", broken, CASES[2], CPU).accepted


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"residual": torch.ones(5, 24)}, r"residual \(5, 24\) is not \(B, L, D\)"),
            ({"residual": torch.ones(3, 5, 24, dtype=torch.float64)}, "residual is torch.float64"),
            ({"y": torch.ones(3, 5, 23)}, "y.*give the same shape"),
            ({"y": torch.ones(3, 5, 24, device="meta")}, "use one device"),
            ({"earlier": torch.ones(3, 5, 23)}, "earlier.*give the same shape"),
            ({"gate": torch.ones(2, 1, 24)}, "gate.*does not fit"),
            ({"shift": torch.ones(24)}, "shift.*does not fit"),
            ({"modulated": False}, r"shift.*give \(24,\)"),
            ({"dtype": torch.int8}, "dtype is torch.int8"),
        ],
    )
    def test_a_bad_argument_is_named(self, inputs, changes, message):
        names = ("residual", "y", "gate", "shift", "scale", "modulated", "eps", "dtype", "earlier")
        with pytest.raises(ValueError, match=message):
            gate_residual_norm(*(dict(zip(names, inputs)) | changes).values())


class TestGraphs:
    def test_opcheck(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.gate_residual_norm.default, inputs)

    def test_opcheck_without_a_gate(self):
        inputs = make_inputs((2, 5, 24), torch.bfloat16, CPU, gated=False, modulated=False)
        torch.library.opcheck(torch.ops.humo_rt.gate_residual_norm.default, inputs)

    def test_opcheck_with_an_earlier_residual(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.gate_residual_norm.default, with_earlier(inputs))

    def test_compiles_and_exports_with_an_earlier_residual(self, inputs):
        op_checks.assert_compiles(gate_residual_norm, with_earlier(inputs), backend="aot_eager", dynamic=True)
        op_checks.assert_exports_as_plain_operators(gate_residual_norm, with_earlier(inputs))

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(gate_residual_norm, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(gate_residual_norm, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("gate_residual_norm")
