"""Audio face probabilities on a GPU: Triton, captured graphs, compiled callers."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.audio_face_attention.cases import Sizes
from humo_rt.kernels.audio_face_probabilities import audio_face_probabilities
from humo_rt.kernels.audio_face_probabilities.cases import WORKLOADS, make_inputs
from humo_rt.kernels.testing import Case, check, deviation

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


def test_compiles_into_one_graph():
    inputs = make_inputs(SMALL, torch.bfloat16, CUDA)
    compiled = torch.compile(lambda *given: audio_face_probabilities(*given) + 1, fullgraph=True)
    assert torch.equal(compiled(*inputs), audio_face_probabilities(*inputs) + 1)


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
