"""Guidance and sampler update on a GPU: every backend, current streams, captured graphs, compiled callers."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.guided_update import guided_update
from humo_rt.kernels.guided_update.cases import WORKLOADS, make_inputs
from humo_rt.kernels.testing import Case, check, deviation
from tests.kernels import op_checks

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
BACKENDS = registry.BACKENDS


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend in turn. A GPU machine has them all: a missing one fails."""
    with registry.use_backend(request.param):
        yield request.param


@pytest.fixture
def inputs():
    return make_inputs((3, 4, 1000), torch.bfloat16, CUDA)


def test_cases(backend):
    check("guided_update", backend, CUDA)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_real_shapes(backend, workload):
    case = Case(name=workload, make=lambda device: make_inputs(WORKLOADS[workload], torch.bfloat16, device))
    found = deviation("guided_update", guided_update, case, CUDA)
    assert found.accepted, found


def test_offsets_beyond_32_bits(backend):
    count = 2**30 + 8
    velocity = torch.zeros(3, count, dtype=torch.bfloat16, device=CUDA)
    velocity[:, -8:] = 1
    latents = torch.zeros(count, device=CUDA)
    latents[-8:] = 1
    weights, coefficients = torch.tensor([1.0, 2.0, 4.0], device=CUDA), torch.ones(3, 5, device=CUDA)
    for result in guided_update(velocity, weights, latents, latents, latents, latents, coefficients):
        assert result[-9:].tolist() == [0.0] + [11.0] * 8


def test_opcheck(backend, inputs):
    torch.library.opcheck(torch.ops.humo_rt.guided_update.default, inputs)


def test_compiles_into_one_graph(backend, inputs):
    op_checks.assert_compiles(guided_update, inputs)


def test_a_captured_graph_reads_its_inputs_anew(backend, inputs):
    op_checks.assert_a_captured_graph_reads_its_inputs_anew(guided_update, inputs)


def test_runs_on_the_current_stream(backend, inputs):
    op_checks.assert_runs_on_the_current_stream(guided_update, inputs)


def test_the_fastest_available_backend_is_chosen():
    assert registry.select("guided_update", CUDA) is registry.implementation("guided_update", BACKENDS[0])
