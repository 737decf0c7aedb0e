"""Traces, reused encodings and warm-ups on a GPU, toy size: the same bits, measured, and no new memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.pipeline import Pipeline
from tests.tiny import tiny_components, tiny_config

pytestmark = pytest.mark.gpu

PROMPT = "A woman is talking to the camera."


def given() -> dict:
    noise = np.random.default_rng(0)
    image = noise.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    sound = (noise.normal(0, 0.1, 6_000).astype(np.float32), 16_000)
    return {"image": image, "audio": sound, "num_frames": 9, "seed": 3, "num_inference_steps": 4}


@pytest.fixture(params=[HUMO_1_7B, HUMO_17B], ids=lambda config: config.name)
def pipeline(request) -> Pipeline:
    return Pipeline(tiny_components(tiny_config(request.param), dtype=torch.bfloat16, device="cuda"))


def test_a_trace_changes_no_frame_and_times_every_step(pipeline) -> None:
    plain, traced = pipeline.generate(PROMPT, **given()), pipeline.generate(PROMPT, trace=True, **given())
    assert np.array_equal(plain.frames, traced.frames)
    trace = traced.trace
    assert len(trace.steps) == 4
    assert min(trace.steps) > 0
    assert sum(trace.steps) <= trace.stages["denoise"]
    assert 0 < trace.peak_memory <= torch.cuda.max_memory_allocated()


def test_reused_encodings_give_the_same_bits(pipeline) -> None:
    first, second = (pipeline.generate(PROMPT, **given()).frames for _ in range(2))
    pipeline.clear_caches()
    assert np.array_equal(first, second)
    assert np.array_equal(first, pipeline.generate(PROMPT, **given()).frames)


def test_a_call_after_the_warmup_and_a_first_one_reserves_no_new_memory(pipeline) -> None:
    pipeline.warmup(num_frames=9)
    first = pipeline.generate(PROMPT, **given())
    reserved = torch.cuda.memory_reserved()
    second = pipeline.generate(PROMPT, **given())
    assert torch.cuda.memory_reserved() == reserved
    assert np.array_equal(first.frames, second.frames)


@pytest.mark.parametrize("options", [{}, {"branch_batch_size": 1}, {"guidance_reuse": {"0": 3}}], ids=str)
def test_a_call_after_the_warmup_records_nothing(pipeline, options: dict) -> None:
    """HuMo-17B has branches of two rows, of different steps."""
    pipeline.warmup(num_frames=9, num_inference_steps=4, **options)
    recorded = list(pipeline.denoiser._recordings)
    assert recorded
    pipeline.generate(PROMPT, **given(), **options)
    assert pipeline.denoiser._recordings == recorded
