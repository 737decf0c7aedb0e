"""LayerNorm and modulation on the CPU: arithmetic, registration, compilation, export, interpreted Triton code."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels.adaln_modulate import adaln_modulate
from humo_rt.kernels.adaln_modulate.cases import CASES, make_inputs
from humo_rt.kernels.testing import deviation
from humo_rt.model.block import modulate
from humo_rt.model.layers import LayerNorm
from tests.kernels import op_checks

CPU = torch.device("cpu")


@pytest.fixture
def inputs():
    return make_inputs((3, 5, 24), torch.bfloat16, CPU)


class TestArithmetic:
    def test_it_is_what_a_block_computes(self):
        x, shift, scale, eps, _ = make_inputs((3, 5, 24), torch.float32, CPU)
        expected = modulate(LayerNorm(24, eps=eps, elementwise_affine=False)(x), shift, scale)
        assert torch.equal(adaln_modulate(x, shift, scale, eps, torch.float32), expected)

    def test_one_modulation_serves_every_branch(self, inputs):
        x, shift, scale, *rest = inputs
        shared = adaln_modulate(x, shift[:1], scale[:1], *rest)
        assert torch.equal(shared, adaln_modulate(x, shift[:1].repeat(3, 1, 1), scale[:1].repeat(3, 1, 1), *rest))

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation("adaln_modulate", adaln_modulate, case, CPU).accepted

    def test_a_wrong_result_is_caught(self):
        assert not deviation("adaln_modulate", lambda *args: adaln_modulate(*args) * 1.001, CASES[2], CPU).accepted


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"x": torch.ones(5, 24)}, r"x \(5, 24\) is not \(B, L, D\)"),
            ({"x": torch.ones(3, 0, 24)}, "every axis at least one"),
            ({"x": torch.ones(3, 5, 24, dtype=torch.float64)}, "x is torch.float64"),
            ({"shift": torch.ones(2, 1, 24)}, "shift.*does not fit"),
            ({"scale": torch.ones(3, 24)}, "scale.*does not fit"),
            ({"scale": torch.ones(3, 1, 24, device="meta")}, "use one device"),
            ({"dtype": torch.int8}, "out is torch.int8"),
        ],
    )
    def test_a_bad_argument_is_named(self, inputs, changes, message):
        names = ("x", "shift", "scale", "eps", "dtype")
        with pytest.raises(ValueError, match=message):
            adaln_modulate(*(dict(zip(names, inputs)) | changes).values())


class TestGraphs:
    def test_opcheck(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.adaln_modulate.default, inputs)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(adaln_modulate, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(adaln_modulate, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("adaln_modulate")
