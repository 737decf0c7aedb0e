"""Text probabilities on the CPU: with folded values they are the attention and its output projection."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from humo_rt.kernels.audio_face_probabilities import fold_values
from humo_rt.kernels.testing import deviation
from humo_rt.kernels.text_attention import cases as attention
from humo_rt.kernels.text_attention import text_attention
from humo_rt.kernels.text_probabilities import text_probabilities
from humo_rt.kernels.text_probabilities.cases import CASES, make_inputs
from humo_rt.kernels.text_probabilities.reference import reference
from tests.kernels import op_checks

CPU = torch.device("cpu")
SMALL = attention.Sizes(texts=(3, 5), tokens=9, heads=2, head_dim=8, text_len=12)


@pytest.fixture
def inputs():
    return make_inputs(SMALL, torch.bfloat16, CPU)


def weighed(prob_BLX: Tensor, v_BHSK: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Text by text, as each has values of its own."""
    folded = [fold_values(v[None, None, None], weight, bias)[0] for v in v_BHSK]
    return torch.stack([prob @ values for prob, values in zip(prob_BLX, folded, strict=True)])


class TestArithmetic:
    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_reference_passes_its_own_rule(self, case):
        assert deviation("text_probabilities", text_probabilities, case, CPU).accepted

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("sizes", [SMALL, attention.Sizes(texts=(20, 31), tokens=50, heads=12, head_dim=128)])
    def test_folded_values_give_the_projected_attention(self, sizes, dtype):
        q, norm_weight, k, v, bias, eps = attention.make_inputs(sizes, dtype, CPU)
        width, generator = q.shape[-1], torch.Generator().manual_seed(0)
        shapes = ((width, width), (width,))
        projection = [(torch.randn(shape, generator=generator) / width**0.5).to(dtype) for shape in shapes]
        wide = reference(*(x.double() for x in (q, norm_weight, k, bias)), eps)
        truth = weighed(wide, v.double(), *(x.double() for x in projection))
        eager = F.linear(text_attention(q, norm_weight, k, v, bias, eps), *projection)
        result = weighed(text_probabilities(q, norm_weight, k, bias, eps), v, *projection)
        bound = 2 * (eager - truth).abs().max() + 2 * (eager + 0.3 - 0.3 - eager).abs().max()
        assert (result - truth).abs().max() <= bound


class TestRefusals:
    @pytest.mark.parametrize(
        ("position", "change", "message"),
        [
            (0, lambda q: q[0], "not \\(B, L, D\\)"),
            (1, lambda weight: weight.half(), "norm weight is torch.float16"),
            (2, lambda k: k[:, :1], "do not fit queries"),
            (2, lambda k: k.half(), "queries are torch.bfloat16, keys torch.float16"),
            (3, lambda bias: bias[:, 1:], "bias .* does not fit"),
        ],
    )
    def test_a_bad_argument_is_named(self, inputs, position, change, message):
        arguments = list(inputs)
        arguments[position] = change(arguments[position])
        with pytest.raises(ValueError, match=message):
            text_probabilities(*arguments)

    def test_a_long_text_has_an_op_of_its_own(self):
        sizes = attention.Sizes(texts=(64,), tokens=2, heads=1, head_dim=8)
        with pytest.raises(ValueError, match="65 keys are above 64: use text_attention"):
            text_probabilities(*make_inputs(sizes, torch.float32, CPU))


class TestGraphs:
    def test_opcheck(self, inputs):
        torch.library.opcheck(torch.ops.humo_rt.text_probabilities.default, inputs)

    def test_compiles_into_one_graph(self, inputs):
        op_checks.assert_compiles(text_probabilities, inputs, backend="aot_eager", dynamic=True)

    def test_exports_as_plain_operators(self, inputs):
        op_checks.assert_exports_as_plain_operators(text_probabilities, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("text_probabilities")
