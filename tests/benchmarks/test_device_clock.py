"""Calls in a row without a GPU: what they are given, and how long their results last."""

from __future__ import annotations

from types import SimpleNamespace

import torch


def test_calls_take_turns_and_no_result_takes_the_place_of_the_one_before(benchmark_module) -> None:
    inputs = [(torch.full((1000,), float(number)),) for number in range(3)]
    turns = benchmark_module("device_clock").Turns(lambda x: x + 1, inputs)
    found = []
    for _ in range(6):
        place = turns.turn
        turns()
        found.append((turns.results[place][0].item(), turns.results[place].data_ptr()))
    assert [value for value, _ in found] == [1, 2, 3, 1, 2, 3]
    for addresses in zip(*[[address for _, address in found[shift:]] for shift in range(3)], strict=False):
        assert len(set(addresses)) == 3


def test_inputs_are_more_than_the_cache_holds_but_no_more_than_are_read(benchmark_module, monkeypatch) -> None:
    bench_kernels = benchmark_module("bench_kernels")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=50))
    found = [bench_kernels.others_of(moved) for moved in (1000, 100, 1)]
    assert found == [2, 4, bench_kernels.CALLS - 1]
