"""Text attention of many tokens on a GPU: the kernels that hold all keys of a head, and what CUDA's is not for."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.testing import Case, deviation
from humo_rt.kernels.text_attention import backend_order, text_attention, triton_impl
from humo_rt.kernels.text_attention.cases import MANY_TOKENS, make_inputs

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
PUBLISHED = dataclasses.replace(MANY_TOKENS, texts=(100, 126), tokens=12_001, heads=12, head_dim=128)
PADDED = dataclasses.replace(MANY_TOKENS, texts=(3, 127), head_dim=24)


@pytest.mark.parametrize("sizes", [MANY_TOKENS, PUBLISHED, PADDED], ids=["narrow heads", "humo-1.7b", "odd heads"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_many_tokens_to_the_tolerance_rule(sizes, dtype):
    q, _, k, *_ = make_inputs(sizes, dtype, CUDA)
    rows = q.shape[0] * q.shape[1] * k.shape[1]
    assert triton_impl.few_blocks(rows, k.shape[2], k.shape[3], q.element_size()) is not None
    case = Case(name=str(sizes), make=lambda device: make_inputs(sizes, dtype, device))
    found = deviation("text_attention", triton_impl.run, case, CUDA)
    assert found.accepted, found


@pytest.mark.parametrize(
    "sizes",
    [
        PUBLISHED,
        dataclasses.replace(PUBLISHED, texts=(3, 127)),
        dataclasses.replace(PUBLISHED, texts=(20,), tokens=64, heads=40),
        dataclasses.replace(PUBLISHED, texts=(20,) * 8, tokens=2047, heads=5),
    ],
    ids=["humo-1.7b", "a long and a short text", "one tile", "batch 8"],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["cuda"], indirect=True)
def test_cuda_to_the_tolerance_rule(backend, sizes, dtype):
    case = Case(name=str(sizes), make=lambda device: make_inputs(sizes, dtype, device))
    found = deviation("text_attention", text_attention, case, CUDA)
    assert found.accepted, found


@pytest.mark.parametrize("backend", ["cuda"], indirect=True)
def test_what_cuda_is_not_written_for_is_refused(backend):
    with pytest.raises(ValueError, match="heads of 128 channels, up to 128 keys and 16-bit types, not 24, 128 and"):
        text_attention(*make_inputs(PADDED, torch.bfloat16, CUDA))


def test_cuda_runs_where_it_is_faster():
    q, weight, k, *_ = make_inputs(PUBLISHED, torch.bfloat16, CUDA)
    order = backend_order(q, weight, k)
    assert registry.select("text_attention", CUDA, order) is registry.implementation("text_attention", "cuda")
