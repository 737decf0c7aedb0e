"""Text attention on a GPU: every backend, current streams, captured graphs, compiled callers."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.testing import Case, check, deviation
from humo_rt.kernels.text_attention import text_attention
from humo_rt.kernels.text_attention.cases import WORKLOADS, Sizes, make_inputs
from tests.kernels import op_checks

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
BACKENDS = ("triton",)
SMALL = Sizes(texts=(12, 40), tokens=140, heads=4, head_dim=64, text_len=64)


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend in turn. A GPU machine has them all: a missing one fails."""
    with registry.use_backend(request.param):
        yield request.param


@pytest.fixture
def inputs():
    return make_inputs(SMALL, torch.bfloat16, CUDA)


def test_cases(backend):
    check("text_attention", backend, CUDA)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_real_shapes(backend, workload):
    """One branch at a time: the float64 truth holds every logit."""
    sizes = WORKLOADS[workload]
    alone = Sizes(**{**vars(sizes), "texts": sizes.texts[-1:], "tokens": min(sizes.tokens, 8192)})
    case = Case(name=workload, make=lambda device: make_inputs(alone, torch.bfloat16, device))
    found = deviation("text_attention", text_attention, case, CUDA)
    assert found.accepted, found


def test_offsets_beyond_32_bits(backend):
    """The last tokens of a large input equal the same tokens alone."""
    q, weight, k, v, bias, eps = make_inputs(Sizes(texts=(9,), tokens=64, heads=2, head_dim=64), torch.bfloat16, CUDA)
    large = torch.zeros(1, 2**24 + 64, 128, dtype=torch.bfloat16, device=CUDA)
    large[:, -64:] = q
    expected = text_attention(large[:, -128:], weight, k, v, bias, eps)[:, -64:]
    assert torch.equal(text_attention(large, weight, k, v, bias, eps)[:, -64:], expected)


def test_opcheck(backend, inputs):
    torch.library.opcheck(torch.ops.humo_rt.text_attention.default, inputs)


def test_compiles_into_one_graph(backend, inputs):
    op_checks.assert_compiles(text_attention, inputs)


def test_a_captured_graph_reads_its_inputs_anew(backend, inputs):
    op_checks.assert_a_captured_graph_reads_its_inputs_anew(text_attention, inputs)


def test_runs_on_the_current_stream(backend, inputs):
    op_checks.assert_runs_on_the_current_stream(text_attention, inputs)


def test_the_fastest_available_backend_is_chosen():
    assert registry.select("text_attention", CUDA) is registry.implementation("text_attention", BACKENDS[0])
