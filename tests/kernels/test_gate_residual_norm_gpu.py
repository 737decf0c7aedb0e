"""Gate, residual and norm on a GPU: every backend, current streams, captured graphs, compiled callers."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.gate_residual_norm import gate_residual_norm
from humo_rt.kernels.gate_residual_norm.cases import WORKLOADS, make_inputs
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
    check("gate_residual_norm", backend, CUDA)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_real_shapes(backend, workload):
    case = Case(name=workload, make=lambda device: make_inputs(WORKLOADS[workload], torch.bfloat16, device))
    found = deviation("gate_residual_norm", gate_residual_norm, case, CUDA)
    assert found.accepted, found


def test_offsets_beyond_32_bits(backend):
    *_, gate, shift, scale, modulated, eps, dtype = make_inputs((1, 1, 256), torch.bfloat16, CUDA)
    residual = torch.zeros(2, 2**22 + 8, 256, dtype=torch.bfloat16, device=CUDA)
    residual[1, -8:] = torch.randn(8, 256, device=CUDA)
    y = residual.flip(-1)
    vectors = (gate, shift, scale, modulated, eps, dtype)
    result = gate_residual_norm(residual, y, *vectors)
    expected = gate_residual_norm(residual[1:, -1000:], y[1:, -1000:], *vectors)
    op_checks.assert_equal([each[1:, -1000:] for each in result], expected)


def test_opcheck(backend, inputs):
    torch.library.opcheck(torch.ops.humo_rt.gate_residual_norm.default, inputs)


def test_compiles_into_one_graph(backend, inputs):
    op_checks.assert_compiles(gate_residual_norm, inputs)


def test_a_captured_graph_reads_its_inputs_anew(backend, inputs):
    op_checks.assert_a_captured_graph_reads_its_inputs_anew(gate_residual_norm, inputs)


def test_runs_on_the_current_stream(backend, inputs):
    op_checks.assert_runs_on_the_current_stream(gate_residual_norm, inputs)


def test_the_fastest_available_backend_is_chosen():
    assert registry.select("gate_residual_norm", CUDA) is registry.implementation("gate_residual_norm", BACKENDS[0])
