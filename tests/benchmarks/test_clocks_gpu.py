"""What times work on a GPU: single runs and calls in a row by recorded marks, and the floor of a model."""

from __future__ import annotations

import statistics
from functools import partial

import pytest
import torch

from humo_rt.config import preset

pytestmark = pytest.mark.gpu


def test_a_longer_copy_takes_longer_and_nothing_takes_next_to_nothing(benchmark_module) -> None:
    microseconds = benchmark_module("device_clock").microseconds
    source = torch.randint(2**31 - 1, (2**27,), dtype=torch.int32, device="cuda")
    target = torch.empty_like(source)

    def median(count: int) -> float:  # not by copy_: recorded, it is slow for long tensors and fast for short ones
        times = microseconds(partial(torch.bitwise_not, source[:count], out=target[:count]), runs=7)
        assert len(times) == 7
        return statistics.median(times)

    assert 3 < median(2**27) / median(2**25) < 5
    assert statistics.median(microseconds(lambda: None, runs=7)) < 20


def test_a_call_in_a_row_takes_about_as_long_as_a_single_one(benchmark_module) -> None:
    clock = benchmark_module("device_clock")
    tensors = [torch.randint(2**31 - 1, (2**26,), dtype=torch.int32, device="cuda") for _ in range(4)]
    pairs = [(tensors[0], tensors[1]), (tensors[2], tensors[3])]

    def inverted(source: torch.Tensor, target: torch.Tensor) -> None:
        torch.bitwise_not(source, out=target)

    times = clock.microseconds_in_a_row(inverted, pairs)
    assert len(times) == clock.ROWS_OF_CALLS
    single = statistics.median(clock.microseconds(inverted, pairs[0], runs=7))
    assert 0.7 < statistics.median(times) / single < 1.1


def test_the_floor_of_a_model_is_recorded(benchmark_module) -> None:
    measure = benchmark_module("floor").measure_floor
    config, device = preset("nano").dit, torch.device("cuda")
    short, long = (measure(config, (1, 16, frames, 16, 16), 3, device) for frames in (26, 104))
    assert short["tokens"] * 4 == long["tokens"]
    for part in ("attention", "linear"):
        assert 0 < short[part] < long[part]
    assert short["total"] == short["attention"] + short["linear"]
