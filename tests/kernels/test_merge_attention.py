"""Merging two results of attention on the CPU: against one softmax, refusals, graphs, interpreted Triton code."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels.merge_attention import merge_attention
from humo_rt.kernels.merge_attention.cases import CASES, make_inputs
from humo_rt.kernels.testing import deviation
from tests.kernels import op_checks

CPU = torch.device("cpu")


@pytest.fixture
def inputs():
    return make_inputs((2, 9, 3, 8), torch.bfloat16, CPU)


class TestArithmetic:
    def test_it_is_one_softmax_over_all_keys(self):
        torch.manual_seed(0)
        q_BLHK = torch.randn(2, 5, 3, 8)
        k_BSHK, v_BSHK = torch.randn(2, 2, 7, 3, 8)

        def attend(keys: slice) -> tuple[torch.Tensor, torch.Tensor]:
            scores_BHLS = torch.einsum("blhk,bshk->bhls", q_BLHK, k_BSHK[:, keys])
            attended = torch.einsum("bhls,bshk->blhk", scores_BHLS.softmax(-1), v_BSHK[:, keys])
            return attended, scores_BHLS.logsumexp(-1)

        merged = merge_attention(*attend(slice(4)), *attend(slice(4, 7)))
        torch.testing.assert_close(merged, attend(slice(7))[0])

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation("merge_attention", merge_attention, case, CPU).accepted

    def test_a_wrong_result_is_caught(self):
        assert not deviation("merge_attention", lambda *args: merge_attention(*args) * 1.001, CASES[1], CPU).accepted


class TestRefusals:
    @pytest.mark.parametrize(
        ("position", "change", "message"),
        [
            (0, lambda first: first[0], r"first .* is not \(B, L, H, K\)"),
            (0, lambda first: first[:, 1:], "first .* does not fit second"),
            (0, lambda first: first.float(), "give one dtype"),
            (1, lambda lse: lse.mT, r"first_lse .* give \(1, 3, 9\) in float32"),
            (2, lambda second: second.double(), "second is torch.float64"),
            (3, lambda lse: lse.half(), r"second_lse .* give \(2, 3, 9\) in float32"),
            (3, lambda lse: lse.to("meta"), "use one device"),
        ],
    )
    def test_a_bad_argument_is_named(self, inputs, position, change, message):
        arguments = list(inputs)
        arguments[position] = change(arguments[position])
        with pytest.raises(ValueError, match=message):
            merge_attention(*arguments)


class TestGraphs:
    def test_opcheck(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.merge_attention.default, inputs)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(merge_attention, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(merge_attention, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("merge_attention")
