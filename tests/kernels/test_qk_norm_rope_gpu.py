"""RMSNorm and rotary positions on a GPU: every backend, current streams, captured graphs, compiled callers."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.qk_norm_rope import qk_norm_rope
from humo_rt.kernels.qk_norm_rope.cases import WORKLOADS, make_inputs
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
    return make_inputs((3, 63, 5, 64), torch.bfloat16, CUDA)


def test_cases(backend):
    check("qk_norm_rope", backend, CUDA)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_real_shapes(backend, workload):
    case = Case(name=workload, make=lambda device: make_inputs(WORKLOADS[workload], torch.bfloat16, device))
    found = deviation("qk_norm_rope", qk_norm_rope, case, CUDA)
    assert found.accepted, found


def test_offsets_beyond_32_bits(backend):
    _, _, weight_q, weight_k, *_ = make_inputs((1, 1, 2, 128), torch.bfloat16, CUDA)
    length = 2**22 + 8
    qkv = torch.zeros(2, length, 768, dtype=torch.bfloat16, device=CUDA)
    qkv[1, -8:] = torch.randn(8, 768, device=CUDA)
    q, k, _ = qkv.split(256, dim=-1)
    angles = torch.rand(length, 64, device=CUDA)
    cos, sin = angles.cos(), angles.sin()
    result = qk_norm_rope(q, k, weight_q, weight_k, cos, sin, 2, 1e-6)
    expected = qk_norm_rope(q[1:, -8:], k[1:, -8:], weight_q, weight_k, cos[-8:], sin[-8:], 2, 1e-6)
    op_checks.assert_equal([each[1:, -8:] for each in result], expected)


def test_opcheck(backend, inputs):
    torch.library.opcheck(torch.ops.humo_rt.qk_norm_rope.default, inputs)


def test_compiles_into_one_graph(backend, inputs):
    op_checks.assert_compiles(qk_norm_rope, inputs)


def test_a_captured_graph_reads_its_inputs_anew(backend, inputs):
    op_checks.assert_a_captured_graph_reads_its_inputs_anew(qk_norm_rope, inputs)


def test_runs_on_the_current_stream(backend, inputs):
    op_checks.assert_runs_on_the_current_stream(qk_norm_rope, inputs)


def test_the_fastest_available_backend_is_chosen():
    assert registry.select("qk_norm_rope", CUDA) is registry.implementation("qk_norm_rope", BACKENDS[0])
