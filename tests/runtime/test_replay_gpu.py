"""Forwards replayed on a GPU: the eager bits, for every branch, new conditions and new sizes, without new memory."""

from __future__ import annotations

import pytest
import torch

from humo_rt.config import NANO
from humo_rt.runtime import attention_backends, replay
from humo_rt.runtime.fusing import fuse
from humo_rt.runtime.replay import MOST_RECORDINGS, ReplayedDiT
from humo_rt.sampling.guidance import guidance_table
from tests.runtime.test_fused_block_gpu import branches, make_conditions, make_dit, random

pytestmark = pytest.mark.gpu

NAMES = list(guidance_table(NANO, "TIA").at(900))


@pytest.fixture(scope="module")
def dit():
    made = make_dit(NANO)
    backend = attention_backends.choose("auto", torch.device("cuda"), torch.bfloat16, NANO.dit.head_dim)
    attention_backends.use_attention(made, backend)
    return fuse(made)


@pytest.fixture(autouse=True)
def no_refusal(monkeypatch):
    """Recording that fails falls back, which a test has to see."""

    def fail(reason: str) -> None:
        raise AssertionError(reason)

    monkeypatch.setattr(replay, "_say_unrecorded", fail)


@pytest.mark.parametrize("size", [None, 1, 3])
def test_a_replay_gives_the_eager_bits(dit, size: int | None) -> None:
    torch.manual_seed(0)
    replayed = ReplayedDiT(dit)
    for step in range(3):
        noise = random(1, 16, 5, 16, 16)
        conditions = make_conditions(NANO, noise, length=5 + step)
        expected = branches(dit, conditions, noise, NAMES, branch_batch_size=size)
        found = branches(replayed, conditions, noise, NAMES, branch_batch_size=size)
        assert torch.equal(found, expected)


def test_a_second_generation_records_and_reserves_nothing(dit) -> None:
    replayed = ReplayedDiT(dit)
    for size in (None, 1):
        for _ in range(2):
            noise = random(1, 16, 5, 16, 16)
            conditions = make_conditions(NANO, noise)
            branches(replayed, conditions, noise, NAMES, branch_batch_size=size)
        expected = branches(dit, conditions, noise, NAMES, branch_batch_size=size)
        recorded, reserved = len(replayed._recordings), torch.cuda.memory_reserved()
        assert torch.equal(branches(replayed, conditions, noise, NAMES, branch_batch_size=size), expected)
        assert len(replayed._recordings) == recorded
        assert torch.cuda.memory_reserved() == reserved


def test_old_recordings_make_room_and_large_forwards_are_not_recorded(dit) -> None:
    replayed = ReplayedDiT(dit)
    for frames in range(2, 3 + MOST_RECORDINGS):
        noise = random(1, 16, frames, 8, 8)
        branches(replayed, make_conditions(NANO, noise), noise, NAMES)
    assert len(replayed._recordings) == MOST_RECORDINGS
    replayed.forget()
    noise = random(1, 16, 26, 96, 96)
    branches(replayed, make_conditions(NANO, noise), noise, NAMES)
    assert not replayed._recordings


def test_a_replay_does_not_wait_for_the_gpu(dit) -> None:
    from humo_rt.sampling.branches import GuidedModel

    noise = random(1, 16, 5, 16, 16)
    guided = GuidedModel(ReplayedDiT(dit), make_conditions(NANO, noise), noise)
    with torch.no_grad():
        guided.branches(noise, 900, NAMES)
        torch.cuda.set_sync_debug_mode("error")
        try:
            guided.branches(noise, 800, NAMES)
        finally:
            torch.cuda.set_sync_debug_mode("default")
