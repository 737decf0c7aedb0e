"""Row-wise quantisation on a GPU: every backend, current streams, captured graphs, compiled callers."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.quantize_rows import quantize_rows
from humo_rt.kernels.quantize_rows.cases import WORKLOADS, make_inputs
from humo_rt.kernels.testing import Case, check, deviation
from tests.kernels import op_checks

pytestmark = pytest.mark.gpu

OP = "quantize_rows"
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


def run(*args):
    return op_checks.results(quantize_rows(*args))


def test_cases(backend):
    check(OP, backend, CUDA)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_real_shapes(backend, workload):
    case = Case(name=workload, make=lambda device: make_inputs(WORKLOADS[workload], torch.bfloat16, device))
    found = deviation(OP, run, case, CUDA)
    assert found.accepted, found


def test_offsets_beyond_32_bits(backend):
    x = torch.zeros(2**23 + 8, 256, dtype=torch.bfloat16, device=CUDA)
    x[-8:] = torch.randn(8, 256, device=CUDA)
    values, scale = quantize_rows(x)
    op_checks.assert_equal((values[-1000:], scale[-1000:]), quantize_rows(x[-1000:]))


def test_opcheck(backend, inputs):
    torch.library.opcheck(torch.ops.humo_rt.quantize_rows.default, inputs)


def test_compiles_into_one_graph(backend, inputs):
    op_checks.assert_compiles(quantize_rows, inputs)


def test_a_captured_graph_reads_its_inputs_anew(backend, inputs):
    op_checks.assert_a_captured_graph_reads_its_inputs_anew(quantize_rows, inputs)


def test_runs_on_the_current_stream(backend, inputs):
    op_checks.assert_runs_on_the_current_stream(quantize_rows, inputs)


def test_the_fastest_available_backend_is_chosen():
    assert registry.select(OP, CUDA) is registry.implementation(OP, BACKENDS[0])
