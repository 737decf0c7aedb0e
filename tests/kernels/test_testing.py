"""The rule that every op is checked by: it lets rounding through and nothing else."""

from __future__ import annotations

import torch

from humo_rt.kernels.guided_update import guided_update
from humo_rt.kernels.guided_update.cases import make_inputs
from humo_rt.kernels.testing import Case, deviation, poisoned_empty

CPU = torch.device("cpu")
CASE = Case(name="one", make=lambda device: make_inputs((3, 63), torch.float32, device))


def test_a_right_result_is_accepted():
    assert deviation("guided_update", guided_update, CASE, CPU).accepted


def test_a_wrong_result_is_caught():
    def enlarged(*inputs):
        return tuple(1.001 * each for each in guided_update(*inputs))

    assert not deviation("guided_update", enlarged, CASE, CPU).accepted


def test_an_element_nobody_wrote_is_caught():
    def forgetful(*inputs):
        first, *others = guided_update(*inputs)
        out = torch.empty(first.shape)
        out[:-1] = first[:-1]
        return out, *others

    assert not deviation("guided_update", forgetful, CASE, CPU).accepted


def test_poison_ends_with_the_block():
    with poisoned_empty():
        assert torch.empty(3).isnan().all()
    assert not torch.empty(3).fill_(1).isnan().any()
