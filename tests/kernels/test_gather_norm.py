"""Norm of gathered rows on the CPU: arithmetic, registration, compilation, export, interpreted Triton code."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels.gather_norm import gather_norm
from humo_rt.kernels.gather_norm.cases import CASES, make_inputs
from humo_rt.kernels.testing import deviation
from humo_rt.model.layers import LayerNorm
from tests.kernels import op_checks

CPU = torch.device("cpu")


@pytest.fixture
def inputs():
    return make_inputs((3, 9, 24), torch.bfloat16, CPU, share=0.5)


class TestArithmetic:
    @torch.no_grad()
    def test_it_is_the_norm_of_the_rows(self, inputs):
        x, rows, shift, scale, eps, _ = inputs
        norm = LayerNorm(24, eps=eps)
        norm.bias.copy_(shift)
        norm.weight.copy_(scale)
        assert torch.equal(gather_norm(x, rows, norm.bias, norm.weight, eps, torch.float32), norm(x[:, rows]))

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation("gather_norm", gather_norm, case, CPU).accepted

    def test_a_wrong_result_is_caught(self):
        assert not deviation("gather_norm", lambda *args: gather_norm(*args) * 1.001, CASES[1], CPU).accepted


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"x": torch.ones(9, 24)}, r"x \(9, 24\) is not \(B, L, D\)"),
            ({"x": torch.ones(3, 9, 24, dtype=torch.float64)}, "x is torch.float64"),
            ({"rows": torch.ones(4, dtype=torch.int32)}, "rows.*give int64"),
            ({"rows": torch.arange(10)}, "rows.*from 1 to 9"),
            ({"shift": torch.ones(1, 1, 24)}, r"shift.*give \(24,\)"),
            ({"scale": torch.ones(24, device="meta")}, "scale on meta.*use one device"),
            ({"dtype": torch.int8}, "out is torch.int8"),
        ],
    )
    def test_a_bad_argument_is_named(self, inputs, changes, message):
        names = ("x", "rows", "shift", "scale", "eps", "dtype")
        with pytest.raises(ValueError, match=message):
            gather_norm(*(dict(zip(names, inputs)) | changes).values())


class TestGraphs:
    def test_opcheck(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.gather_norm.default, inputs)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(gather_norm, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(gather_norm, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("gather_norm")
