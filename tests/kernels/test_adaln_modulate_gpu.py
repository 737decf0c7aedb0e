"""LayerNorm and modulation on a GPU: every backend, current streams, captured graphs, compiled callers."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.adaln_modulate import adaln_modulate
from humo_rt.kernels.adaln_modulate.cases import WORKLOADS, make_inputs
from humo_rt.kernels.testing import Case, check, deviation
from tests.kernels import op_checks

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
BACKENDS = ("triton",)


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend in turn. A GPU machine has them all: a missing one fails."""
    with registry.use_backend(request.param):
        yield request.param


@pytest.fixture
def inputs():
    return make_inputs((3, 63, 1000), torch.bfloat16, CUDA)


def test_cases(backend):
    check("adaln_modulate", backend, CUDA)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_real_shapes(backend, workload):
    case = Case(name=workload, make=lambda device: make_inputs(WORKLOADS[workload], torch.bfloat16, device))
    found = deviation("adaln_modulate", adaln_modulate, case, CUDA)
    assert found.accepted, found


def test_offsets_beyond_32_bits(backend):
    *_, shift, scale, eps, dtype = make_inputs((1, 1, 256), torch.bfloat16, CUDA)
    x = torch.zeros(2, 2**22 + 8, 256, dtype=torch.bfloat16, device=CUDA)
    x[1, -8:] = torch.randn(8, 256, device=CUDA)
    result = adaln_modulate(x, shift, scale, eps, dtype)
    assert torch.equal(result[1:, -1000:], adaln_modulate(x[1:, -1000:], shift, scale, eps, dtype))


def test_opcheck(backend, inputs):
    torch.library.opcheck(torch.ops.humo_rt.adaln_modulate.default, inputs)


def test_compiles_into_one_graph(backend, inputs):
    op_checks.assert_compiles(adaln_modulate, inputs)


def test_a_captured_graph_reads_its_inputs_anew(backend, inputs):
    op_checks.assert_a_captured_graph_reads_its_inputs_anew(adaln_modulate, inputs)


def test_runs_on_the_current_stream(backend, inputs):
    op_checks.assert_runs_on_the_current_stream(adaln_modulate, inputs)


def test_the_fastest_available_backend_is_chosen():
    assert registry.select("adaln_modulate", CUDA) is registry.implementation("adaln_modulate", BACKENDS[0])
