"""Text attention of many tokens on a GPU: the kernel that holds all keys, which smaller cases do not reach."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from humo_rt.kernels.testing import Case, deviation
from humo_rt.kernels.text_attention import triton_impl
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
