"""The guidance sum on a GPU: every backend, current streams, captured graphs, compiled callers."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.guidance_sum import guidance_sum
from humo_rt.kernels.guidance_sum.cases import WORKLOADS, make_inputs
from humo_rt.kernels.testing import Case, check, deviation

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")


@pytest.fixture(params=registry.BACKENDS)
def backend(request):
    """Each backend in turn. A GPU machine has them all: a missing one fails."""
    with registry.use_backend(request.param):
        yield request.param


def test_cases(backend):
    check("guidance_sum", backend, CUDA)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_real_shapes(backend, workload):
    case = Case(name=workload, make=lambda device: make_inputs(WORKLOADS[workload], torch.bfloat16, device))
    assert deviation("guidance_sum", guidance_sum, case, CUDA).accepted


def test_offsets_beyond_32_bits(backend):
    count = 2**30 + 8
    velocity = torch.zeros(3, count, dtype=torch.bfloat16, device=CUDA)
    velocity[:, -8:] = 1
    result = guidance_sum(velocity, torch.tensor([1.0, 2.0, 4.0], device=CUDA))
    assert result[-9:].tolist() == [0.0] + [7.0] * 8


def test_opcheck(backend):
    torch.library.opcheck(torch.ops.humo_rt.guidance_sum.default, make_inputs((3, 1000), torch.bfloat16, CUDA))


def test_compiles_into_one_graph(backend):
    inputs = make_inputs((3, 4, 1000), torch.bfloat16, CUDA)
    compiled = torch.compile(lambda velocity, weights: guidance_sum(velocity, weights) + 1, fullgraph=True)
    assert torch.equal(compiled(*inputs), guidance_sum(*inputs) + 1)


def test_a_captured_graph_replays_with_new_weights(backend):
    velocity, weights = make_inputs((3, 1000), torch.bfloat16, CUDA)
    guidance_sum(velocity, weights)  # compiles outside the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = guidance_sum(velocity, weights)
    weights.copy_(torch.tensor([0.0, 0.0, 1.0]))
    graph.replay()
    assert torch.equal(result, velocity[2].float())


def test_runs_on_the_current_stream(backend):
    velocity, weights = make_inputs((3, 1000), torch.float32, CUDA)
    expected = guidance_sum(velocity, weights)
    torch.cuda.synchronize()
    late = torch.zeros_like(velocity)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(velocity)
        result = guidance_sum(late, weights)
    stream.synchronize()
    assert torch.equal(result, expected)


def test_the_fastest_available_backend_is_chosen():
    assert registry.select("guidance_sum", CUDA) is registry.implementation("guidance_sum", registry.BACKENDS[0])
