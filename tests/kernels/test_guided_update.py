"""Guidance and sampler update on the CPU: arithmetic, registration, compilation, export, interpreted Triton code."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels.guided_update import guided_update
from humo_rt.kernels.guided_update.cases import CASES, make_inputs
from humo_rt.kernels.testing import deviation
from tests.kernels import op_checks

CPU = torch.device("cpu")


@pytest.fixture
def inputs():
    return make_inputs((3, 4, 10), torch.bfloat16, CPU)


class TestArithmetic:
    def test_formula(self):
        velocity = torch.tensor([[1.0, 2.0], [10.0, 20.0]])
        latents = [torch.full((2,), value) for value in (1.0, 2.0, 3.0, 4.0)]
        coefficients = torch.tensor([[1.0, 0, 0, 0, 0], [0, 1, 10, 100, 1000], [-1, 1, 0, 0, 0]])
        results = guided_update(velocity, torch.tensor([3.0, -1.0]), *latents, coefficients)
        assert [result.tolist() for result in results] == [[-7.0, -14.0], [4321.0, 4321.0], [8.0, 15.0]]

    def test_low_precision_branches_are_summed_in_float32(self, inputs):
        velocity, *rest = inputs
        assert velocity.dtype == torch.bfloat16
        for result, expected in zip(guided_update(*inputs), guided_update(velocity.float(), *rest), strict=True):
            assert result.dtype == torch.float32
            assert torch.equal(result, expected)

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation("guided_update", guided_update, case, CPU).accepted

    @pytest.mark.parametrize("wrong", [0, 1, 2])
    def test_a_wrong_result_is_caught(self, wrong):
        def broken(*args):
            return tuple(x * 1.001 if i == wrong else x for i, x in enumerate(guided_update(*args)))

        assert not deviation("guided_update", broken, CASES[2], CPU).accepted


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"velocity": torch.ones(3, 4, 10, dtype=torch.float64)}, "velocity is torch.float64"),
            ({"velocity": torch.ones(3, 0)}, "every axis at least one"),
            ({"weights": torch.ones(2)}, "weights.*does not fit"),
            ({"sample": torch.ones(4, 9)}, "sample.*does not fit"),
            ({"older": torch.ones(4, 10, dtype=torch.float16)}, "older is torch.float16"),
            ({"newest": torch.ones(4, 10, device="meta")}, "use one device"),
            ({"coefficients": torch.ones(5, 3)}, "coefficients.*does not fit"),
        ],
    )
    def test_a_bad_argument_is_named(self, inputs, changes, message):
        names = ("velocity", "weights", "sample", "last_sample", "newest", "older", "coefficients")
        with pytest.raises(ValueError, match=message):
            guided_update(*(dict(zip(names, inputs)) | changes).values())


class TestGraphs:
    def test_opcheck(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.guided_update.default, inputs)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(guided_update, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(guided_update, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("guided_update")
