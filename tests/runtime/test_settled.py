"""Pipelines on one DiT run it one way, and one that is refused changes nothing for the others."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from humo_rt.config import HUMO_1_7B
from humo_rt.model.block import Block
from humo_rt.pipeline import Pipeline
from humo_rt.runtime import attention_backends, execution
from humo_rt.runtime.execution import Execution
from humo_rt.runtime.float8_block import Float8Block, fuse_float8
from humo_rt.runtime.fused_block import FusedBlock
from humo_rt.runtime.fusing import unfuse
from humo_rt.runtime.settled import Running, settle
from tests.tiny import tiny_components, tiny_config

EXACT = Running(attention_backend="sdpa", fused=True)
FLOAT8 = Running(attention_backend="cudnn-fp8", precision="fp8", fused=True)
ENGINE = Running(attention_backend=None)


@pytest.fixture
def dit():
    return tiny_components(tiny_config(HUMO_1_7B), dtype=torch.bfloat16).dit


def state(dit) -> list:
    parameters = [(name, parameter.data_ptr()) for name, parameter in dit.named_parameters()]
    return [(type(block), block.self_attn.attention_function) for block in dit.blocks] + parameters


@pytest.mark.parametrize("running", [EXACT, FLOAT8, ENGINE], ids=str)
def test_the_same_settings_share_a_dit(dit, running: Running) -> None:
    settle(dit, running)
    before = state(dit)
    assert settle(dit, running) is dit
    assert state(dit) == before


@pytest.mark.parametrize(
    "second",
    [
        EXACT,
        FLOAT8,
        ENGINE,
        dataclasses.replace(EXACT, attention_backend="cudnn"),
        dataclasses.replace(EXACT, matmul_backend="quack"),
    ],
)
@pytest.mark.parametrize("first", [EXACT, FLOAT8, ENGINE], ids=str)
def test_other_settings_are_refused_and_change_nothing(dit, first: Running, second: Running) -> None:
    if first == second:
        return
    settle(dit, first)
    before = state(dit)
    with pytest.raises(
        ValueError, match="the DiT of these components was set up for a pipeline with .*load the weights"
    ):
        settle(dit, second)
    assert state(dit) == before


def test_what_the_blocks_become(dit) -> None:
    assert {type(block) for block in settle(dit, ENGINE).blocks} == {Block}
    for running, kind in ((EXACT, FusedBlock), (FLOAT8, Float8Block)):
        components = tiny_components(tiny_config(HUMO_1_7B), dtype=torch.bfloat16)
        assert {type(block) for block in settle(components.dit, running).blocks} == {kind}


def test_one_that_was_taken_apart_meanwhile_is_fused_again(dit) -> None:
    unfuse(settle(dit, EXACT))
    assert {type(block) for block in settle(dit, EXACT).blocks} == {FusedBlock}


@pytest.mark.parametrize("running", [EXACT, FLOAT8], ids=str)
def test_float8_made_by_hand_is_not_taken_over(dit, running: Running) -> None:
    before = state(fuse_float8(dit, ()))
    with pytest.raises(ValueError, match="lost its weights|fused already"):
        settle(dit, running)
    assert state(dit) == before


@pytest.mark.parametrize("second", [{"precision": "fp8"}, {"attention_backend": "sdpa-flash"}], ids=str)
def test_a_pipeline_that_is_refused_leaves_the_first_as_it_was(monkeypatch, second: dict) -> None:
    monkeypatch.setattr(execution, "check_precision", lambda *_: None)
    monkeypatch.setattr(attention_backends, "choose", lambda requested, *_, **__: requested.replace("auto", "sdpa"))
    components = tiny_components(tiny_config(HUMO_1_7B))
    first = Pipeline(components)
    options = {"num_frames": 5, "seed": 3}
    expected = first.generate("A man speaks.", **options)
    with pytest.raises(
        ValueError, match="with precision 'exact', attention_backend 'sdpa' and matmul_backend 'torch', which precision"
    ):
        Pipeline(components, Execution(**second))
    found = first.generate("A man speaks.", **options)
    assert np.array_equal(found.frames, expected.frames)
    assert found.settings == expected.settings
    assert np.array_equal(Pipeline(components).generate("A man speaks.", **options).frames, expected.frames)


def test_recordings_need_a_gpu() -> None:
    with pytest.raises(ValueError, match="cuda_graphs=True replays recordings of a GPU, but the model runs on cpu"):
        Pipeline.from_pretrained("nano", device="cpu", cuda_graphs=True)
