"""Whose weights a graph was made of: told across precisions, and from every other tensor."""

from __future__ import annotations

import copy

import pytest
import torch

from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.tensorrt import fp8
from humo_rt.tensorrt.fingerprint import Fingerprint, sample
from tests.tensorrt.conftest import tiny_dit

PRECISIONS = [torch.float32, torch.float16, torch.bfloat16]


def wide(published=HUMO_1_7B):
    return tiny_dit(published, torch.float32)


@pytest.mark.parametrize("published", [HUMO_1_7B, HUMO_17B], ids=lambda model: model.name)
@pytest.mark.parametrize("exported", PRECISIONS, ids=str)
@pytest.mark.parametrize("loaded", PRECISIONS, ids=str)
def test_one_checkpoint_is_the_same_in_every_precision(published, exported, loaded):
    one, other = (Fingerprint.of(tiny_dit(published, dtype)) for dtype in (exported, loaded))
    assert one.difference(other, exported, loaded) is None


def test_it_comes_back_from_text():
    fingerprint = Fingerprint.of(wide())
    assert Fingerprint.from_json(fingerprint.to_json()) == fingerprint


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
def test_every_tensor_counts(dtype):
    dit = tiny_dit(HUMO_1_7B, dtype)
    own = Fingerprint.of(dit)
    assert set(own.samples) == {name for name, _ in dit.named_parameters()}
    for name, parameter in dit.named_parameters():
        kept = parameter.clone()
        parameter.mul_(1.1).add_(0.1)
        assert own.difference(Fingerprint.of(dit), dtype, dtype).startswith(f"{name} has ")
        parameter.copy_(kept)
    assert own.difference(Fingerprint.of(dit), dtype, dtype) is None


def test_a_change_below_what_was_rounded_away_is_none():
    dit, other = wide(), wide()
    for parameter in other.parameters():
        parameter.mul_(1 + 1e-4)
    one, two = Fingerprint.of(dit), Fingerprint.of(other)
    assert one.difference(two, torch.float32, torch.float32) is not None
    assert one.difference(two, torch.float32, torch.bfloat16) is None


def test_values_that_are_no_numbers_differ():
    dit = wide()
    own = Fingerprint.of(dit)
    dit.head.head.bias.fill_(torch.nan)
    assert own.difference(Fingerprint.of(dit), torch.float32, torch.float32).startswith("head.head.bias has ")


def test_quantising_changes_no_fingerprint():
    dit = tiny_dit(HUMO_1_7B, fp8.COMPUTE_DTYPE)
    own = Fingerprint.of(dit)
    assert Fingerprint.of(fp8.quantize(dit)) == own


def test_the_mask_predictor_is_left_out():
    without, dit = wide(), tiny_dit(HUMO_1_7B, mask_predictor=True)
    assert set(Fingerprint.of(dit).samples) == set(Fingerprint.of(without).samples)


@pytest.mark.parametrize("shape", [(1,), (3,), (4, 5), (2, 3, 1, 2, 2)])
def test_samples_are_values_of_the_tensor_however_it_lies_in_memory(shape):
    values = torch.arange(1, 1 + torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    found = sample(values)
    assert len(set(found.tolist())) == len(found) == min(4, values.numel())
    assert set(found.tolist()) <= set(values.flatten().tolist())
    strided = copy.deepcopy(values).mT.contiguous().mT if values.ndim > 1 else values
    assert torch.equal(sample(strided), found)
