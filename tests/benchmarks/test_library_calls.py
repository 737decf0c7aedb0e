"""Calls of libraries give what the ops give, on the inputs that they take."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from humo_rt.kernels import registry
from humo_rt.kernels.audio_face_attention.cases import Sizes as AudioSizes
from humo_rt.kernels.causal_conv.cases import Shape
from humo_rt.kernels.gate_residual_norm.cases import Stream
from humo_rt.kernels.testing import Case, deviation
from humo_rt.kernels.text_attention.cases import Sizes as TextSizes

CPU = torch.device("cpu")
AUDIO = [
    AudioSizes(batch=3, frames=3, tokens=20, heads=4, head_dim=64, keys=8),
    AudioSizes(batch=2, frames=2, tokens=20, heads=4, head_dim=64, keys=8, mask="soft"),
    AudioSizes(frames=2, tokens=20, heads=4, head_dim=64, keys=8, speakers=2, mask="soft"),
]
ROWS = [(1, 63, 256), (3, 63, 256)]  # one vector for all samples, and one for each
SIZES = {
    "gate_residual_norm": [*ROWS, Stream(3, 63, 256, earlier=True)],
    "audio_face_attention": AUDIO,
    "audio_face_probabilities": AUDIO,
    "text_attention": [TextSizes(texts=(30, 9, 1), tokens=70, heads=4, head_dim=64, text_len=64)],
    "qk_norm_rope": [(2, 63, 4, 64)],
    "rms_silu": [(2, 2, 6, 7, 96)],
    "causal_conv": [Shape(2, 9, 13, 96, 96), Shape(2, 5, 6, 32, 48, (1, 3, 3), residual=False)],
}


@pytest.fixture
def library_calls(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("library_calls")


def test_every_op_has_calls_or_a_reason(library_calls) -> None:
    assert set(library_calls.LIBRARY_CALLS) == set(registry.OPS)
    assert all(library_calls.LIBRARY_CALLS.values())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("op", registry.OPS)
def test_a_call_errs_no_more_than_a_kernel_may(library_calls, op, device) -> None:
    calls = library_calls.LIBRARY_CALLS[op]
    cases = importlib.import_module(f"humo_rt.kernels.{op}.cases")
    for call in () if isinstance(calls, str) else calls:
        if call.missing() is not None or (call.package and device == "cpu"):
            continue
        for sizes in SIZES.get(op, ROWS):

            def make(device, sizes=sizes, call=call):
                return call.given(*cases.make_inputs(sizes, torch.bfloat16, device))

            found = deviation(op, call.run, Case(name=str(sizes), make=make), torch.device(device))
            assert found.accepted, (call.library, found)


def test_a_residual_without_gate_and_a_norm_with_weights(library_calls) -> None:
    from humo_rt.kernels.gate_residual_norm.cases import make_inputs

    (call,) = library_calls.LIBRARY_CALLS["gate_residual_norm"]
    for kinds in ({"gated": False}, {"modulated": False}):
        case = Case(
            name=str(kinds), make=lambda device, kinds=kinds: make_inputs(ROWS[1], torch.bfloat16, device, **kinds)
        )
        assert deviation("gate_residual_norm", call.run, case, CPU).accepted


def test_the_benchmark_checks_a_workload_that_each_op_has(library_calls) -> None:
    small = importlib.import_module("bench_kernels").SMALL_WORKLOADS
    for op, calls in library_calls.LIBRARY_CALLS.items():
        if not isinstance(calls, str):
            workloads = importlib.import_module(f"humo_rt.kernels.{op}.cases").WORKLOADS
            assert small.get(op) in workloads or any(name.startswith("nano") for name in workloads), op
