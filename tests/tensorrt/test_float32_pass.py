"""The truth of a comparison: float32 results from weights that stay as they were."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.tensorrt.float32_pass import in_float32
from tests.tensorrt.conftest import forward_arguments, tiny_dit


@pytest.mark.parametrize("published", [HUMO_1_7B, HUMO_17B], ids=lambda model: model.name)
@torch.no_grad()
def test_it_is_what_a_float32_copy_computes(published):
    dit = tiny_dit(published, torch.bfloat16, num_layers=2)
    arguments, context = forward_arguments(dit.config, (3, 4, 6))
    copied = copy.deepcopy(dit).float()
    expected = copied(**arguments, context=copied.project_context(*context))
    narrow = dit(**arguments, context=dit.project_context(*context))
    with in_float32(dit):
        found = dit(**arguments, context=dit.project_context(*context))
    assert torch.equal(found, expected)
    assert not torch.equal(narrow, expected)
    assert torch.equal(dit(**arguments, context=dit.project_context(*context)), narrow)


@torch.no_grad()
def test_one_linear_of_a_block_at_a_time_is_wide():
    dit = tiny_dit(HUMO_1_7B, torch.bfloat16, num_layers=2)
    linears = [module for module in dit.blocks.modules() if isinstance(module, nn.Linear)]
    wide = []
    with in_float32(dit):
        for linear in linears:
            linear.register_forward_pre_hook(
                lambda *_: wide.append(sum(other.weight.dtype == torch.float32 for other in linears))
            )
        arguments, context = forward_arguments(dit.config, (2, 4, 4))
        dit(**arguments, context=dit.project_context(*context))
    assert set(wide) == {1}


@torch.no_grad()
def test_the_weights_are_the_same_memory_afterwards_and_after_an_error():
    dit = tiny_dit(HUMO_1_7B, torch.bfloat16)
    before = {name: (p.data_ptr(), p.dtype) for name, p in dit.named_parameters()}
    with pytest.raises(RuntimeError), in_float32(dit):
        dit.blocks[0].self_attn.q(torch.zeros(2, 3))
    assert {name: (p.data_ptr(), p.dtype) for name, p in dit.named_parameters()} == before
