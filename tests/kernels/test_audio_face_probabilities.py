"""Audio face probabilities on the CPU: with folded values they are the attention and its output projection."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from humo_rt.kernels.audio_face_attention import audio_face_attention, backend_order
from humo_rt.kernels.audio_face_attention import cases as attention
from humo_rt.kernels.audio_face_probabilities import audio_face_probabilities, fold_values, weigh_values
from humo_rt.kernels.audio_face_probabilities.cases import CASES, make_inputs
from humo_rt.kernels.audio_face_probabilities.reference import reference
from humo_rt.kernels.testing import deviation
from tests.kernels import op_checks

CPU = torch.device("cpu")
SOFT = attention.Sizes(batch=2, frames=3, tokens=6, heads=2, head_dim=8, keys=4, speakers=2, mask="soft")


def fold_inputs(sizes: attention.Sizes, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Queries, norm weight, keys, values and face weights; weight and bias of an output projection."""
    q, norm_weight, k, v, face, _ = attention.make_inputs(sizes, dtype, CPU)
    width, generator = q.shape[-1], torch.Generator().manual_seed(0)
    weight = torch.randn(width, width, generator=generator) / width**0.5
    return q, norm_weight, k, v, face, weight.to(dtype), torch.randn(width, generator=generator).to(dtype)


def projected_attention(q, norm_weight, k, v, face, weight, bias):
    """Each speaker's attention, projected, bias included, times its face weights."""
    heard = audio_face_attention(q, norm_weight, k, v, face)
    times = q.new_full(q.shape[:2], float(len(k))) if face is None else face.sum(0)
    return F.linear(heard, weight) + (bias * times[..., None]).to(q.dtype)


def folded_attention(q, norm_weight, k, v, face, weight, bias):
    return weigh_values(audio_face_probabilities(q, norm_weight, k, face), fold_values(v, weight, bias))


@pytest.mark.parametrize("mask", ["none", "soft", "binary"])
@pytest.mark.parametrize("speakers", [1, 2])
def test_folded_values_give_the_projected_attention(speakers, mask):
    inputs = fold_inputs(replace(SOFT, speakers=speakers, mask=mask), torch.float32)
    torch.testing.assert_close(folded_attention(*inputs), projected_attention(*inputs))


@pytest.mark.parametrize("speakers", [1, 2])
@pytest.mark.parametrize(("heads", "head_dim"), [(12, 128), (4, 64)])
def test_folding_keeps_the_tolerance_rule_in_bfloat16(speakers, heads, head_dim):
    sizes = replace(SOFT, heads=heads, head_dim=head_dim, keys=16, speakers=speakers)
    inputs = fold_inputs(sizes, torch.bfloat16)
    *wide, face, weight, bias = (x.double() for x in inputs)
    prob = reference(*wide[:3], face, 1e-6)
    truth = weigh_values(prob, fold_values(wide[3], weight, bias))
    eager = projected_attention(*inputs)
    bound = 2 * (eager - truth).abs().max() + 2 * (eager + 0.3 - 0.3 - eager).abs().max()
    assert (folded_attention(*inputs) - truth).abs().max() <= bound


def test_what_weighs_nothing_hears_nothing():
    """No bias either, which a head carries whole."""
    inputs = fold_inputs(replace(SOFT, mask="binary"), torch.bfloat16)
    outside = (inputs[4] == 0).all(0)
    assert outside.any()
    assert not folded_attention(*inputs)[outside].any()


def test_folded_values_are_read_where_they_were_written():
    """Frames within rows: dense along the width, so that a batched product takes them as they are."""
    _, _, _, v, _, weight, bias = fold_inputs(SOFT, torch.bfloat16)
    folded = fold_values(v, weight, bias)
    frames, rows, width = 2 * 3, 2 * 2 * 4, 16
    assert folded.shape == (frames, rows, width)
    assert folded.stride() == (width, frames * width, 1)
    assert folded.dtype == torch.bfloat16


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


SHARED_KIB = {"H100": 228, "A100": 164, "RTX 4090": 100}  # of one processor


@pytest.mark.parametrize(
    ("card", "dtype", "heads", "speakers", "keys", "faster"),
    [
        ("H100", torch.bfloat16, 40, 1, 16, "cuda"),
        ("H100", torch.bfloat16, 40, 2, 16, "triton"),
        ("H100", torch.bfloat16, 12, 4, 16, "cuda"),
        ("RTX 4090", torch.bfloat16, 12, 1, 16, "cuda"),
        ("RTX 4090", torch.bfloat16, 40, 1, 16, "triton"),
        ("A100", torch.bfloat16, 40, 1, 16, "triton"),
        ("A100", torch.float16, 12, 1, 16, "triton"),
        ("A100", torch.bfloat16, 12, 1, 17, "triton"),
    ],
)
def test_cuda_comes_first_where_its_fast_kernel_has_room(monkeypatch, card, dtype, heads, speakers, keys, faster):
    card_of = SimpleNamespace(shared_memory_per_multiprocessor=1024 * SHARED_KIB[card])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card_of)
    q = SimpleNamespace(device=torch.device("cuda"), dtype=dtype)
    k = SimpleNamespace(shape=(speakers, 1, 1, heads, keys, 128))
    assert backend_order(q, k)[0] == faster
