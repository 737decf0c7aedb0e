"""Traces: what they hold, that they change nothing, and their ranges with and without ``nvtx``."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from humo_rt.runtime import trace as traces
from humo_rt.runtime.trace import Trace, block_ranges, named_range
from tests.tiny import tiny_pipeline

PROMPT = "A woman is talking to the camera."
SOUND = (np.random.default_rng(0).normal(0, 0.1, 6_000).astype(np.float32), 16_000)


@pytest.fixture(autouse=True)
def _asks_again():
    traces._annotate.cache_clear()
    yield
    traces._annotate.cache_clear()


@pytest.fixture
def ranges(monkeypatch) -> list[str]:
    """The names of all ranges, in the order they began, with a stand-in for ``nvtx``."""
    begun = []

    @contextmanager
    def annotate(name: str, domain: str):
        assert domain == "humo_rt"
        begun.append(name)
        yield

    monkeypatch.setitem(sys.modules, "nvtx", SimpleNamespace(annotate=annotate))
    return begun


def test_a_trace_holds_stages_steps_and_memory_and_changes_no_frame() -> None:
    pipeline = tiny_pipeline("frames")
    options = {"num_frames": 9, "seed": 3, "num_inference_steps": 4, "audio": SOUND}
    plain, traced = pipeline.generate(PROMPT, **options), pipeline.generate(PROMPT, trace=True, **options)
    assert plain.trace is None
    assert np.array_equal(plain.frames, traced.frames)
    assert plain.settings == traced.settings
    trace = traced.trace
    assert set(trace.stages) == {"text", "audio", "image", "denoise", "decode", "encode", "total"}
    assert trace.stages == traced.timings
    assert len(trace.steps) == len(trace.branches) == 4
    assert 0 < sum(trace.steps) <= trace.stages["denoise"]
    assert trace.branches == (2,) * 4
    assert trace.peak_memory > 2**20


def test_percentiles_and_rows() -> None:
    trace = Trace(
        stages={"text": 0.5, "total": 9.0},
        steps=tuple(range(10, 0, -1)),
        branches=(2,) * 5 + (1,) * 5,
        peak_memory=3 * 2**29,
    )
    assert (trace.step_p50, trace.step_p90) == (5.5, 9)
    assert trace.branch_forward == 3.75
    assert trace.rows()[0] == ("text", "0.5000 s")
    assert trace.rows()[-1] == ("peak memory", "1.50 GiB")
    alone = Trace(stages={}, steps=(2.0,), branches=(1,), peak_memory=None)
    assert (alone.step_p50, alone.step_p90) == (2.0, 2.0)
    assert [name for name, _ in alone.rows()] == ["step p50", "step p90", "branch", "branches run"]


def test_only_branches_that_are_computed_count() -> None:
    options = {"num_frames": 5, "seed": 3, "num_inference_steps": 5, "audio": SOUND, "trace": True}
    trace = tiny_pipeline("frames").generate(PROMPT, guidance_reuse=2, **options).trace
    assert trace.branches == (2, 1, 2, 1, 2)
    assert dict(trace.rows())["branches run"] == "8"
    assert trace.branch_forward == sorted(s / b for s, b in zip(trace.steps, trace.branches, strict=True))[2]


def test_a_stream_has_no_trace() -> None:
    with pytest.raises(ValueError, match=r"trace=True has no result to go into: use generate\(\)"):
        tiny_pipeline("frames").generate_stream(PROMPT, trace=True)


def test_ranges_of_stages_steps_and_blocks(ranges: list[str]) -> None:
    pipeline = tiny_pipeline("frames")
    pipeline.generate(PROMPT, num_frames=5, seed=0)
    assert set(ranges) == {"text", "image", "denoise", "decode", "encode"}
    ranges.clear()
    pipeline.generate(PROMPT, num_frames=5, seed=0, trace=True)
    blocks = [f"block {index}" for index in range(4)]
    inside = [name for name in ranges if name.startswith(("step", "block"))]
    assert inside == ["step 0", *blocks, "step 1", *blocks]
    ranges.clear()
    pipeline.generate(PROMPT, num_frames=5, seed=0)
    assert not [name for name in ranges if name.startswith(("step", "block"))]


def test_without_nvtx_there_are_no_ranges(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "nvtx", None)
    assert traces._annotate() is None
    with named_range("anything"):
        pass
    assert tiny_pipeline("frames").generate(PROMPT, num_frames=5, trace=True).trace.steps


def test_a_compiled_block_stays_compiled(ranges: list[str]) -> None:
    calls = []

    def backend(graph, example_inputs):
        calls.append("compiled")
        return graph.forward

    class Block(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    dit = SimpleNamespace(blocks=[Block()])
    dit.blocks[0].compile(backend=backend, fullgraph=True)
    plain = dit.blocks[0](torch.ones(1, 2))
    before = dit.blocks[0]._compiled_call_impl
    with block_ranges(dit):
        assert torch.equal(dit.blocks[0](torch.ones(1, 2)), plain)
    assert dit.blocks[0]._compiled_call_impl is before
    assert calls == ["compiled"]
    assert ranges == ["block 0"]


def test_an_error_inside_leaves_the_blocks_as_they_were(ranges: list[str]) -> None:
    dit = SimpleNamespace(blocks=[nn.Linear(2, 2)])
    with pytest.raises(RuntimeError), block_ranges(dit):
        dit.blocks[0](torch.ones(1, 3))
    assert dit.blocks[0]._compiled_call_impl is None


def test_a_graph_has_no_blocks(ranges: list[str]) -> None:
    with block_ranges(SimpleNamespace()):
        pass
    assert ranges == []
