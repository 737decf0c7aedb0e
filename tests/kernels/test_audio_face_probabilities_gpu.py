"""Audio face probabilities on a GPU: Triton, current streams, captured graphs, compiled callers."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.audio_face_attention.cases import Sizes
from humo_rt.kernels.audio_face_probabilities import audio_face_probabilities
from humo_rt.kernels.audio_face_probabilities.cases import WORKLOADS, make_inputs
from humo_rt.kernels.testing import Case, check, deviation
from tests.kernels import op_checks

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
SMALL = Sizes(batch=2, frames=3, tokens=40, heads=4, head_dim=64, mask="soft")


@pytest.fixture(autouse=True)
def triton_backend():
    with registry.use_backend("triton"):
        yield


def test_cases():
    check("audio_face_probabilities", "triton", CUDA)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_real_shapes(workload):
    case = Case(name=workload, make=lambda device: make_inputs(WORKLOADS[workload], torch.bfloat16, device))
    assert deviation("audio_face_probabilities", audio_face_probabilities, case, CUDA).accepted


def test_offsets_beyond_32_bits():
    """The last frame of a large input equals the same frame alone."""
    q, weight, k, _, eps = make_inputs(Sizes(frames=2, tokens=64, heads=2, head_dim=64), torch.bfloat16, CUDA)
    tokens = 2**30 // 128 + 64  # of one frame; two frames of 128 channels exceed 2**31 elements
    large = torch.zeros(1, 2 * tokens, 128, dtype=torch.bfloat16, device=CUDA)
    large[:, -64:] = q[:, -64:]
    expected = audio_face_probabilities(q, weight, k, None, eps)
    assert torch.equal(audio_face_probabilities(large, weight, k, None, eps)[:, -64:], expected[:, -64:])


def test_opcheck():
    inputs = make_inputs(SMALL, torch.bfloat16, CUDA)
    torch.library.opcheck(torch.ops.humo_rt.audio_face_probabilities.default, inputs)


def test_compiles_into_one_graph():
    op_checks.assert_compiles(audio_face_probabilities, make_inputs(SMALL, torch.bfloat16, CUDA))


def test_runs_on_the_current_stream():
    op_checks.assert_runs_on_the_current_stream(audio_face_probabilities, make_inputs(SMALL, torch.float32, CUDA))


def test_a_captured_graph_replays_with_a_new_mask():
    inputs = make_inputs(SMALL, torch.bfloat16, CUDA)
    audio_face_probabilities(*inputs)  # compiles outside the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = audio_face_probabilities(*inputs)
    inputs[3].fill_(1)
    graph.replay()
    assert torch.equal(result, audio_face_probabilities(*inputs))
