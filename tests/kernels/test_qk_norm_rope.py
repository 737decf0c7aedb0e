"""RMSNorm and rotary positions on the CPU: arithmetic, registration, compilation, export, interpreted Triton code."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels.qk_norm_rope import qk_norm_rope
from humo_rt.kernels.qk_norm_rope.cases import CASES, make_inputs
from humo_rt.kernels.testing import deviation
from humo_rt.model.attention import SelfAttention, apply_rope
from humo_rt.model.embeddings import rope_table
from tests.kernels import op_checks

CPU = torch.device("cpu")


@pytest.fixture
def inputs():
    return make_inputs((3, 5, 2, 8), torch.bfloat16, CPU)


class TestArithmetic:
    def test_it_is_what_self_attention_computes(self):
        attention = SelfAttention(48, 3, 1e-6)
        torch.nn.init.normal_(attention.norm_q.weight)
        x, table = torch.randn(2, 24, 48), rope_table(2, 3, 4, 16, CPU)
        with torch.no_grad():
            expected = (apply_rope(attention.queries(x), table), apply_rope(attention.project(x).k, table))
            weights = (attention.norm_q.weight, attention.norm_k.weight)
            actual = qk_norm_rope(attention.q(x), attention.k(x), *weights, *table, 3, 1e-6)
        torch.testing.assert_close([each.transpose(1, 2) for each in actual], list(expected))

    def test_results_are_contiguous_heads_last_but_one(self, inputs):
        for result in qk_norm_rope(*inputs):
            assert result.shape == (3, 5, 2, 8)
            assert result.is_contiguous()

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation("qk_norm_rope", qk_norm_rope, case, CPU).accepted

    @pytest.mark.parametrize("wrong", [0, 1])
    def test_a_wrong_result_is_caught(self, wrong):
        def broken(*args):
            return tuple(x.flip(1) if i == wrong else x for i, x in enumerate(qk_norm_rope(*args)))

        assert not deviation("qk_norm_rope", broken, CASES[1], CPU).accepted


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"q": torch.ones(5, 16)}, r"q \(5, 16\) is not \(B, L, D\)"),
            ({"q": torch.ones(3, 5, 16)}, "k torch.bfloat16.*for both"),
            ({"k": torch.ones(3, 4, 16)}, "k.*does not fit"),
            ({"weight_q": torch.ones(8)}, "weight_q.*does not fit"),
            ({"weight_k": torch.ones(16, dtype=torch.float64)}, "weight_k is torch.float64"),
            ({"cos": torch.ones(4, 4)}, "cos.*does not fit"),
            ({"sin": torch.ones(5, 4, device="meta")}, "use one device"),
            ({"num_heads": 3}, "does not split into 3 heads"),
            ({"num_heads": 16}, "heads of even width"),
        ],
    )
    def test_a_bad_argument_is_named(self, inputs, changes, message):
        names = ("q", "k", "weight_q", "weight_k", "cos", "sin", "num_heads", "eps")
        with pytest.raises(ValueError, match=message):
            qk_norm_rope(*(dict(zip(names, inputs)) | changes).values())


class TestGraphs:
    def test_opcheck(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.qk_norm_rope.default, inputs)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(qk_norm_rope, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(qk_norm_rope, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("qk_norm_rope")
