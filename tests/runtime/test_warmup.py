"""A warm-up does the work of a first call and changes no later result."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.pipeline import Pipeline
from tests.tiny import tiny_components, tiny_config

PROMPT = "A woman is talking to the camera."


def given(mode: str) -> dict:
    noise = np.random.default_rng(1)
    image = noise.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    sound = (noise.normal(0, 0.1, 6_000).astype(np.float32), 16_000)
    return {"image": image if "I" in mode else None, "audio": sound if "A" in mode else None, "num_frames": 9}


@pytest.mark.parametrize("published", [HUMO_1_7B, HUMO_17B], ids=lambda config: config.name)
@pytest.mark.parametrize("mode", ["T", "TI", "TA", "TIA"])
def test_no_later_result_changes(published, mode: str) -> None:
    components = tiny_components(tiny_config(published))
    expected = Pipeline(components).generate(PROMPT, seed=3, **given(mode))
    warmed = Pipeline(components)
    before = torch.get_rng_state()
    warmed.warmup(num_frames=9, mode=mode)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(warmed.generate(PROMPT, seed=3, **given(mode)).frames, expected.frames)


def test_it_runs_one_step_of_the_size_asked_for(monkeypatch) -> None:
    pipeline = Pipeline(tiny_components(tiny_config(HUMO_1_7B)))
    seen, decoded = [], []
    forward, decode = pipeline.dit.forward, pipeline.vae.decode_chunks

    def watch(x, *args, **kwargs):
        seen.append(tuple(x.shape))
        return forward(x, *args, **kwargs)

    def watch_decode(latents):
        decoded.append(tuple(latents.shape))
        return decode(latents)

    monkeypatch.setattr(pipeline.dit, "forward", watch)
    monkeypatch.setattr(pipeline.vae, "decode_chunks", watch_decode)
    pipeline.warmup(height=48, width=32, num_frames=5, mode="TI", branch_batch_size=1)
    assert seen == [(1, 16, 3, 6, 4)] * 3
    assert decoded == [(1, 16, 2, 6, 4)]


def test_it_keeps_what_was_encoded_before_and_nothing_of_its_own() -> None:
    pipeline = Pipeline(tiny_components(tiny_config(HUMO_17B)))
    pipeline.generate(PROMPT, seed=3, **given("TIA"))
    kept = list(pipeline._encodings._entries)
    pipeline.warmup(num_frames=9)
    assert list(pipeline._encodings._entries) == kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "IA"}, "unknown mode 'IA': choose one of T, TI, TA, TIA"),
        ({"num_frames": 6}, "num_frames 6 is not 4n\\+1: use 5 or 9"),
        ({"height": 50}, "height 50 is not a multiple of 16"),
    ],
)
def test_what_cannot_work_is_refused_as_generate_refuses_it(options: dict, message: str) -> None:
    pipeline = Pipeline(tiny_components(tiny_config(HUMO_1_7B)))
    with pytest.raises(ValueError, match=message):
        pipeline.warmup(**options)
    assert len(pipeline._encodings) == 0
