"""What may be asked of a DiT's execution together, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from humo_rt.config import HUMO_1_7B
from humo_rt.runtime.execution import Execution
from humo_rt.runtime.settled import Running

CPU, CARD = torch.device("cpu"), torch.device("cuda")
ON_CPU = (CPU, torch.float32, HUMO_1_7B.dit)


def test_backends_are_chosen_and_stay_chosen():
    settled = Execution().settled_for(*ON_CPU)
    assert (settled.attention_backend, settled.matmul_backend) == ("sdpa", "torch")
    assert settled.settled_for(*ON_CPU) == settled


def test_an_engine_brings_its_own():
    settled = Execution(dit_engine="dit.engine").settled_for(*ON_CPU)
    assert (settled.attention_backend, settled.matmul_backend) == (None, None)
    assert settled.settled_for(*ON_CPU) == settled
    assert settled.running(CARD) == Running(attention_backend=None)


@pytest.mark.parametrize(
    ("name", "value"), [("precision", "fp8"), ("attention_backend", "sdpa"), ("matmul_backend", "torch")]
)
def test_what_does_not_reach_into_an_engine_is_refused(monkeypatch, name, value):
    monkeypatch.setattr("humo_rt.runtime.execution.check_precision", lambda *_: None)
    with pytest.raises(ValueError, match=f"{name} '{value}' does not reach into 'dit.engine': leave it out"):
        Execution(dit_engine="dit.engine", **{name: value}).settled_for(*ON_CPU)


def test_recordings_are_of_a_gpu():
    with pytest.raises(ValueError, match="cuda_graphs=True replays recordings of a GPU, but the model runs on cpu"):
        Execution(cuda_graphs=True).settled_for(*ON_CPU)
    Execution(cuda_graphs=False).settled_for(*ON_CPU)


@pytest.mark.parametrize(
    ("options", "device", "expected"),
    [
        ({}, CARD, True),
        ({"cuda_graphs": True}, CARD, True),
        ({"cuda_graphs": False}, CARD, False),
        ({"dit_engine": "dit.engine"}, CARD, False),
        ({}, CPU, False),
    ],
)
def test_when_forwards_may_be_replayed(options, device, expected):
    assert Execution(**options).may_replay(device) is expected


def test_blocks_are_fused_on_a_gpu_alone():
    settled = replace(Execution(), attention_backend="sdpa", matmul_backend="torch", precision="fp8")
    expected = Running(attention_backend="sdpa", matmul_backend="torch", precision="fp8", fused=True)
    assert settled.running(CARD) == expected
    assert settled.running(CPU) == replace(expected, fused=False)
