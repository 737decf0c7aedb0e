"""The guidance sum on the CPU: arithmetic, registration, compilation, export, and the Triton code interpreted."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels.guidance_sum import guidance_sum
from humo_rt.kernels.guidance_sum.cases import CASES, make_inputs
from humo_rt.kernels.testing import Case, deviation, poisoned_empty
from tests.kernels import op_checks

CPU = torch.device("cpu")


@pytest.fixture
def inputs():
    return make_inputs((3, 4, 10), torch.bfloat16, CPU)


class TestArithmetic:
    def test_formula(self):
        velocity = torch.tensor([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]])
        result = guidance_sum(velocity, torch.tensor([1.0, -2.0, 0.5]))
        assert result.tolist() == [31.0, 62.0]

    def test_low_precision_branches_are_summed_in_float32(self, inputs):
        velocity, weights = inputs
        result = guidance_sum(velocity, weights)
        assert result.dtype == torch.float32
        assert torch.equal(result, guidance_sum(velocity.float(), weights))

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation("guidance_sum", guidance_sum, case, CPU).accepted


class TestRefusals:
    @pytest.mark.parametrize(
        ("velocity", "weights", "message"),
        [
            (torch.ones(2, 3, dtype=torch.float64), torch.ones(2), "float64.*use float32"),
            (torch.ones(2, 3), torch.ones(2, dtype=torch.float16), "weights are torch.float16"),
            (torch.ones(2, 3), torch.ones(3), "one weight for each branch"),
            (torch.ones(2), torch.ones(2), "one weight for each branch"),
            (torch.ones(2, 0), torch.ones(2), "empty"),
            (torch.ones(2, 3), torch.ones(2, device="meta"), "use one device"),
        ],
    )
    def test_a_bad_argument_is_named(self, velocity, weights, message):
        with pytest.raises(ValueError, match=message):
            guidance_sum(velocity, weights)


class TestGraphs:
    def test_opcheck(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.guidance_sum.default, inputs)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(guidance_sum, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(guidance_sum, inputs)


class TestRule:
    """The rule itself: it lets rounding through and nothing else."""

    def test_a_wrong_result_is_caught(self):
        assert not deviation("guidance_sum", lambda v, w: guidance_sum(v, w) * 1.001, CASES[2], CPU).accepted

    def test_an_element_nobody_wrote_is_caught(self):
        def forgetful(velocity, weights):
            out = torch.empty(velocity.shape[1:])
            out[:-1] = guidance_sum(velocity, weights)[:-1]
            return out

        case = Case(name="one", make=lambda device: make_inputs((3, 63), torch.float32, device))
        assert not deviation("guidance_sum", forgetful, case, CPU).accepted

    def test_poison_ends_with_the_block(self):
        with poisoned_empty():
            assert torch.empty(3).isnan().all()
        assert not torch.empty(3).fill_(1).isnan().any()


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("guidance_sum")
