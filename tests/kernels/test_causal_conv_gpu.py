"""Causal convolution on a GPU: every backend, current streams, captured graphs, compiled callers."""

from __future__ import annotations

import functools

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.causal_conv import causal_conv
from humo_rt.kernels.causal_conv.cases import CASES, WORKLOADS, Shape, make_inputs
from humo_rt.kernels.testing import Case, check, deviation
from tests.kernels import op_checks

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
BACKENDS = ("cuda", "triton")


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend in turn. A GPU machine has them all: a missing one fails."""
    with registry.use_backend(request.param):
        yield request.param


@pytest.fixture
def inputs():
    return make_inputs(Shape(2, 13, 17, 96, 96), torch.bfloat16, CUDA)


def test_cases(backend):
    check("causal_conv", backend, CUDA)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_real_shapes(backend, workload):
    """Fewer rows than a decoder has, because PyTorch computes the truth in float64."""
    shape = WORKLOADS[workload]
    shape = shape._replace(frames=2, rows=min(shape.rows, 20))
    case = Case(name=workload, make=lambda device: make_inputs(shape, torch.bfloat16, device))
    found = deviation("causal_conv", causal_conv, case, CUDA)
    assert found.accepted, found


def test_offsets_beyond_32_bits(backend):
    weight, bias = make_inputs(Shape(1, 1, 1, 96, 96), torch.bfloat16, CUDA)[1:3]
    x = torch.zeros(1, 60, 482, 834, 96, dtype=torch.bfloat16, device=CUDA)
    x[:, -3:, 1:-1, 1:-1] = torch.randn(480, 832, 96, device=CUDA)
    op_checks.assert_equal(causal_conv(x, weight, bias, None)[:, -1:], causal_conv(x[:, -3:], weight, bias, None))


@pytest.mark.parametrize("shared_columns", [False, True])
def test_many_tiles_for_each_processor(shared_columns):
    """768 tiles of more steps than a ring has stages: both groups of a block take several, each in its turn."""
    shape = Shape(8, 62, 126, 64, 288)
    case = Case(name="768 tiles", make=lambda device: make_inputs(shape, torch.bfloat16, device))
    run = functools.partial(registry.implementation("causal_conv", "cuda"), shared_columns=shared_columns)
    found = deviation("causal_conv", run, case, CUDA)
    assert found.accepted, found


@pytest.mark.parametrize("shared_columns", [False, True])
def test_taps_alone_and_three_on_one_tile(shared_columns):
    run = functools.partial(registry.implementation("causal_conv", "cuda"), shared_columns=shared_columns)
    wrong = [found for case in CASES if not (found := deviation("causal_conv", run, case, CUDA)).accepted]
    assert not wrong


def test_float32_is_refused():
    with pytest.raises(ValueError, match="float32 on cuda"):
        causal_conv(*make_inputs(Shape(1, 2, 2, 16, 16), torch.float32, CUDA))


def test_opcheck(backend, inputs):
    torch.library.opcheck(torch.ops.humo_rt.causal_conv.default, inputs)


def test_compiles_into_one_graph(backend, inputs):
    op_checks.assert_compiles(causal_conv, inputs)


def test_a_captured_graph_reads_its_inputs_anew(backend, inputs):
    op_checks.assert_a_captured_graph_reads_its_inputs_anew(causal_conv, inputs)


def test_runs_on_the_current_stream(backend, inputs):
    op_checks.assert_runs_on_the_current_stream(causal_conv, inputs)


def test_the_fastest_available_backend_is_chosen():
    assert registry.select("causal_conv", CUDA) is registry.implementation("causal_conv", BACKENDS[0])
