"""Audio face probabilities on the CPU: with folded values they are the attention and its output projection."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels.audio_face_attention import audio_face_attention
from humo_rt.kernels.audio_face_attention import cases as attention
from humo_rt.kernels.audio_face_probabilities import add_folded, audio_face_probabilities, fold_values
from humo_rt.kernels.audio_face_probabilities.cases import CASES, make_inputs
from humo_rt.kernels.testing import deviation
from tests.kernels import op_checks

CPU = torch.device("cpu")
SOFT = attention.Sizes(batch=2, frames=3, tokens=6, heads=2, head_dim=8, keys=4, speakers=2, mask="soft")


@pytest.mark.parametrize("mask", ["none", "soft", "binary"])
def test_folded_values_give_the_projected_attention(mask):
    sizes = attention.Sizes(batch=2, frames=3, tokens=6, heads=2, head_dim=8, keys=4, speakers=2, mask=mask)
    q, norm_weight, k, v, face, eps = attention.make_inputs(sizes, torch.float32, CPU)
    residual, (weight, bias) = torch.randn(q.shape), (torch.randn(16, 16), torch.randn(16))
    heard = audio_face_attention(q, norm_weight, k, v, face, eps)
    shares = torch.full(q.shape[:2], 2.0) if face is None else face.sum(0)
    expected = residual + heard @ weight.T + bias * shares[..., None]
    prob = audio_face_probabilities(q, norm_weight, k, face, eps)
    torch.testing.assert_close(add_folded(residual, prob, fold_values(v, weight, bias)), expected)


def test_a_wider_residual_keeps_its_dtype():
    q, norm_weight, k, v, face, eps = attention.make_inputs(SOFT, torch.bfloat16, CPU)
    prob = audio_face_probabilities(q, norm_weight, k, face, eps)
    residual = torch.zeros(q.shape)
    assert add_folded(residual, prob, fold_values(v, torch.eye(16), None)).dtype == torch.float32


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_reference_passes_its_own_rule(case):
    assert deviation("audio_face_probabilities", audio_face_probabilities, case, CPU).accepted


def test_a_speaker_without_a_mask_is_refused():
    q, norm_weight, k, face, eps = make_inputs(SOFT, torch.float32, CPU)
    with pytest.raises(ValueError, match="one mask for each speaker"):
        audio_face_probabilities(q, norm_weight, k, face[:1], eps)


def test_opcheck():
    torch.library.opcheck(torch.ops.humo_rt.audio_face_probabilities.default, make_inputs(SOFT, torch.bfloat16, CPU))


def test_compiles_into_one_graph():
    inputs = make_inputs(SOFT, torch.bfloat16, CPU)
    op_checks.assert_compiles(audio_face_probabilities, inputs, backend="aot_eager", dynamic=True)


def test_exports_as_plain_operators():
    inputs = make_inputs(SOFT, torch.bfloat16, CPU)
    op_checks.assert_exports_as_plain_operators(audio_face_probabilities, inputs)


def test_triton_code_interpreted_on_the_cpu():
    pytest.importorskip("triton", reason="triton is not installed: its kernels can only be checked where it is")
    op_checks.assert_interpreted_code_is_right("audio_face_probabilities")
