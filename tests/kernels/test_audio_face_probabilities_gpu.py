"""Values that hold the output projection, on a GPU at the widths of the published models: errors and memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from humo_rt.kernels.audio_face_probabilities import audio_face_probabilities, fold_values, weigh_values
from humo_rt.kernels.audio_face_probabilities.reference import reference
from tests.kernels.test_audio_face_probabilities import SOFT, fold_inputs, folded_attention, projected_attention

pytestmark = pytest.mark.gpu

WIDTHS = pytest.mark.parametrize("heads", [12, 40], ids=["humo-1.7b", "humo-17b"])
SLACK = 2**20


def make_inputs(heads: int, speakers: int, mask: str) -> list[torch.Tensor | None]:
    sizes = replace(SOFT, tokens=60, heads=heads, head_dim=128, keys=16, speakers=speakers, mask=mask)
    return [None if x is None else x.cuda() for x in fold_inputs(sizes, torch.bfloat16)]


@WIDTHS
@pytest.mark.parametrize("speakers", [1, 2])
@pytest.mark.parametrize("mask", ["none", "soft", "binary"])
def test_the_tolerance_rule(heads, speakers, mask):
    inputs = make_inputs(heads, speakers, mask)
    q, norm_weight, k, v, face, weight, bias = (None if x is None else x.double() for x in inputs)
    truth = weigh_values(reference(q, norm_weight, k, face, 1e-6), fold_values(v, weight, bias))
    eager = projected_attention(*inputs)
    bound = 2 * (eager - truth).abs().max() + 2 * (eager + 0.3 - 0.3 - eager).abs().max()
    assert (folded_attention(*inputs) - truth).abs().max() <= bound


def peak_bytes(run) -> tuple[torch.Tensor, int]:
    """The result of the second run, when cuBLAS has its workspace, and the most that run held at once."""
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run()
    torch.cuda.synchronize()
    return result, torch.cuda.max_memory_allocated() - before


@WIDTHS
@pytest.mark.parametrize("speakers", [1, 2])
def test_no_product_copies_what_it_reads(heads, speakers):
    """Beyond the results only the values are copied, a few rows that are reordered."""
    q, norm_weight, k, v, face, weight, bias = make_inputs(heads, speakers, "soft")
    folded, peak = peak_bytes(lambda: fold_values(v, weight, bias))
    assert folded.nbytes > 2 * SLACK
    assert peak <= folded.nbytes + v.nbytes + SLACK
    prob = audio_face_probabilities(q, norm_weight, k, face)
    heard, peak = peak_bytes(lambda: weigh_values(prob, folded))
    assert peak <= heard.nbytes + SLACK
