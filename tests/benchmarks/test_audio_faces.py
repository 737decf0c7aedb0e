"""The cases of audio on faces: timed in turn, and one that fails takes nothing from the others."""

from __future__ import annotations

from unittest import mock

import pytest
import torch


@pytest.fixture
def audio_faces(benchmark_module, monkeypatch):
    module = benchmark_module("audio_faces")
    cases = [module.Row(name="no mask"), module.Row(name="fails", share=0.15), module.Row(name="mask", share=0.15)]
    monkeypatch.setattr(module, "CASES", cases)
    return module


def measured(audio_faces, failing: str) -> tuple[list[dict], list[str]]:
    """Rows of a block that only says which case it computes."""
    order: list[str] = []

    def prepared(case, *_):
        if case.name == failing:
            raise RuntimeError("out of memory\nat length")
        return {"tokens": 1.0}, lambda: order.append(case.name)

    with mock.patch.object(audio_faces, "prepared", prepared):
        rows = audio_faces.measure_block({"block": "eager"}, lambda *_: order.append("silent"), None, torch.zeros(1), 2)
    return rows, order


def test_cases_take_turns_and_one_that_fails_is_reported(audio_faces):
    (first, failed, last), order = measured(audio_faces, "fails")
    assert failed == {"block": "eager", "case": "fails", "failure": "out of memory"}
    assert first["share"] == 1
    assert last["share"] == last["added"] / first["added"]
    assert order == ["silent", "no mask", "mask"] * 3  # the first time to warm up


def test_without_a_whole_there_are_no_shares(audio_faces):
    (first, _, last), _ = measured(audio_faces, "no mask")
    assert "failure" in first
    assert "share" not in last
