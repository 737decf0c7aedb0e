"""Causal convolution on a GPU: the compiled kernel both ways. What every op does is in test_every_op_gpu.py."""

from __future__ import annotations

import functools

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.causal_conv import causal_conv
from humo_rt.kernels.causal_conv.cases import CASES, Shape, make_inputs
from humo_rt.kernels.testing import Case, deviation

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")


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
