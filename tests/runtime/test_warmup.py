"""A warm-up does the work of a first call and changes no later result."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.pipeline import Pipeline
from humo_rt.sampling.branches import GuidedModel
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
    kept = list(pipeline.encoder.cache._entries)
    pipeline.warmup(num_frames=9)
    assert list(pipeline.encoder.cache._entries) == kept


def forwards(pipeline: Pipeline, monkeypatch) -> set:
    """What tells one compiled, planned or recorded forward from another, of all that run from now on."""
    seen = set()
    init, forward = GuidedModel.__init__, pipeline.dit.forward

    def share_inputs(self, *args, **kwargs):  # as on a GPU
        init(self, *args, **kwargs)
        self.shares_inputs = True

    def watch(x, timestep, *, context, rows=None, **inputs):
        seen.add((tuple(x.shape), len(context.text[0].k), None if rows is None else len(rows)))
        return forward(x, timestep, context=context, rows=rows, **inputs)

    monkeypatch.setattr(GuidedModel, "__init__", share_inputs)
    monkeypatch.setattr(pipeline.dit, "forward", watch)
    return seen


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"branch_batch_size": 2},
        {"guidance_reuse": 2},
        {"guidance_reuse": {"TI": 2, "0": 3}},
        {"guidance": "paper", "guidance_reuse": "TI=2,0=3"},
        {"guidance": [{"above": 700, "weights": {"TIA": 1}}, {"weights": {"TIA": 3, "T": -1, "0": -1}}]},
        {"guidance_switch_timestep": 900, "sampler": "euler", "num_inference_steps": 3},
    ],
    ids=str,
)
def test_generate_runs_nothing_that_was_not_warmed(monkeypatch, options: dict) -> None:
    """HuMo-17B, whose guidance has two rows."""
    pipeline = Pipeline(tiny_components(tiny_config(HUMO_17B)))
    options = {"num_inference_steps": 8, **options}
    seen = forwards(pipeline, monkeypatch)
    pipeline.warmup(num_frames=9, **options)
    warmed = set(seen)
    seen.clear()
    pipeline.generate(PROMPT, seed=3, **given("TIA"), **options)
    assert seen
    assert seen == warmed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_reuse": {"TX": 2}}, "branch 'TX' is not made of T, I and A"),
        ({"mode": "IA"}, "unknown mode 'IA': choose one of T, TI, TA, TIA"),
        ({"num_frames": 6}, "num_frames 6 is not 4n\\+1: use 5 or 9"),
        ({"height": 50}, "height 50 is not a multiple of 16"),
    ],
)
def test_what_cannot_work_is_refused_as_generate_refuses_it(options: dict, message: str) -> None:
    pipeline = Pipeline(tiny_components(tiny_config(HUMO_1_7B)))
    with pytest.raises(ValueError, match=message):
        pipeline.warmup(**options)
    assert len(pipeline.encoder.cache) == 0
