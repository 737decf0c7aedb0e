"""RMSNorm and SiLU on a GPU: every backend, current streams, captured graphs, compiled callers."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.rms_silu import rms_silu
from humo_rt.kernels.rms_silu.cases import WORKLOADS, make_inputs
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
    return make_inputs((2, 3, 14, 15, 96), torch.bfloat16, CUDA)


def test_cases(backend):
    check("rms_silu", backend, CUDA)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_real_shapes(backend, workload):
    frames, *size = WORKLOADS[workload][1:]
    case = Case(name=workload, make=lambda device: make_inputs((1, min(frames, 2), *size), torch.bfloat16, device))
    found = deviation("rms_silu", rms_silu, case, CUDA)
    assert found.accepted, found


def test_offsets_beyond_32_bits(backend):
    gamma = torch.rand(96, dtype=torch.bfloat16, device=CUDA)
    x = torch.zeros(1, 58, 482, 834, 96, dtype=torch.bfloat16, device=CUDA)
    x[:, -1] = torch.randn(482, 834, 96, device=CUDA)
    op_checks.assert_equal(rms_silu(x, gamma, x[:, :2])[:, -1:], rms_silu(x[:, -1:], gamma, None))


def test_opcheck(backend, inputs):
    torch.library.opcheck(torch.ops.humo_rt.rms_silu.default, inputs)


def test_compiles_into_one_graph(backend, inputs):
    op_checks.assert_compiles(rms_silu, inputs)


def test_a_captured_graph_reads_its_inputs_anew(backend, inputs):
    op_checks.assert_a_captured_graph_reads_its_inputs_anew(rms_silu, inputs)


def test_runs_on_the_current_stream(backend, inputs):
    op_checks.assert_runs_on_the_current_stream(rms_silu, inputs)


def test_the_fastest_available_backend_is_chosen():
    assert registry.select("rms_silu", CUDA) is registry.implementation("rms_silu", BACKENDS[0])
