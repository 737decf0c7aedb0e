"""LayerNorm, modulation and quantisation on the CPU: arithmetic, compilation, export, interpreted Triton code."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels.adaln_modulate import adaln_modulate
from humo_rt.kernels.adaln_modulate_quantize import adaln_modulate_quantize
from humo_rt.kernels.adaln_modulate_quantize.cases import CASES, make_inputs
from humo_rt.kernels.quantize_rows import quantize_rows
from humo_rt.kernels.testing import deviation
from tests.kernels import op_checks

CPU = torch.device("cpu")


@pytest.fixture
def inputs():
    return make_inputs((3, 5, 24), torch.bfloat16, CPU)


class TestArithmetic:
    def test_it_is_modulation_then_quantisation(self, inputs):
        rows = adaln_modulate(*inputs, torch.float32)
        op_checks.assert_equal(adaln_modulate_quantize(*inputs), quantize_rows(rows))

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation(
            "adaln_modulate_quantize", lambda *args: op_checks.results(adaln_modulate_quantize(*args)), case, CPU
        ).accepted

    @pytest.mark.parametrize("wrong", [0, 1])
    def test_a_wrong_result_is_caught(self, wrong):
        def broken(*args):
            return tuple(
                op_checks.enlarged(x) if i == wrong else x for i, x in enumerate(adaln_modulate_quantize(*args))
            )

        assert not deviation("adaln_modulate_quantize", broken, CASES[2], CPU).accepted


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"x": torch.ones(5, 24)}, r"x \(5, 24\) is not \(B, L, D\)"),
            ({"shift": torch.ones(2, 1, 24)}, "shift.*does not fit"),
            ({"scale": torch.ones(3, 1, 24, device="meta")}, "use one device"),
        ],
    )
    def test_a_bad_argument_is_named(self, inputs, changes, message):
        names = ("x", "shift", "scale", "eps")
        with pytest.raises(ValueError, match=message):
            adaln_modulate_quantize(*(dict(zip(names, inputs)) | changes).values())


class TestGraphs:
    def test_opcheck(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.adaln_modulate_quantize.default, inputs)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(adaln_modulate_quantize, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(adaln_modulate_quantize, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("adaln_modulate_quantize")
