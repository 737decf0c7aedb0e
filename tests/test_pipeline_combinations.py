"""Options of a generation together: face masks, speakers, predicted faces, kept branches, products in float8."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.pipeline import Pipeline
from humo_rt.runtime import execution
from humo_rt.runtime.execution import Execution
from humo_rt.runtime.float8_block import is_float8
from tests.tiny import tiny_components, tiny_config, tiny_pipeline

PROMPT = "A woman is talking to the camera."
PUBLISHED = {"frames": HUMO_1_7B, "channels": HUMO_17B}
LEFT, RIGHT = (0, 0, 16, 32), (32, 0, 48, 32)
FACES = {
    "a face": {"face_masks": LEFT},
    "two speakers": {"speakers": 2, "face_masks": [LEFT, RIGHT]},
    "predictor": {"face_masks": "predictor"},
}
REUSE = {"every": 2, "below": 950}


def generate(pipeline: Pipeline, *, speakers: int = 1, sounds: list | None = None, **options) -> np.ndarray:
    noise = np.random.default_rng(0)
    image = noise.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    each = [(noise.normal(0, 0.1, 6_000).astype(np.float32), 16_000) for _ in range(2)]
    audio = sounds or (each if speakers == 2 else each[0])
    given = {"num_frames": 9, "seed": 3, "num_inference_steps": 4, "image": image, "audio": audio}
    return pipeline.generate(PROMPT, **given | options).frames.astype(int)


@pytest.mark.parametrize("layout", PUBLISHED)
@pytest.mark.parametrize("faces", FACES.values(), ids=FACES)
def test_kept_branches_and_faces(layout: str, faces: dict) -> None:
    pipeline = tiny_pipeline(layout)
    exact, every, kept = (generate(pipeline, **faces, guidance_reuse=reuse) for reuse in (None, 1, REUSE))
    assert np.abs(every - exact).max() <= 1
    assert (kept != exact).any()
    assert np.abs(generate(pipeline, **faces, guidance_reuse=REUSE, branch_batch_size=1) - kept).max() <= 1


@pytest.mark.parametrize("layout", PUBLISHED)
def test_kept_branches_and_a_mask_of_everything(layout: str) -> None:
    pipeline = tiny_pipeline(layout)
    masks = ({"face_masks": (0, 0, 48, 32)}, {})
    everywhere, free = (generate(pipeline, guidance_reuse=REUSE, **mask) for mask in masks)
    assert np.array_equal(everywhere, free)


@pytest.mark.parametrize("layout", PUBLISHED)
def test_kept_branches_and_two_speakers_who_say_the_same(layout: str) -> None:
    pipeline = tiny_pipeline(layout)
    sound = (np.random.default_rng(1).normal(0, 0.1, 6_000).astype(np.float32), 16_000)
    twice = generate(pipeline, sounds=[sound, sound], face_masks=[LEFT, RIGHT], guidance_reuse=REUSE)
    once = generate(pipeline, sounds=sound, face_masks=[LEFT, RIGHT], guidance_reuse=REUSE)
    assert np.abs(twice - once).max() <= 1


@pytest.fixture(params=PUBLISHED)
def both(request, monkeypatch) -> tuple[Pipeline, Pipeline]:
    """An exact pipeline and one in float8, of the same weights, as on a GPU but for the kernels."""
    monkeypatch.setattr(execution, "check_precision", lambda *_: None)
    config = tiny_config(PUBLISHED[request.param])
    exact, float8 = (
        Pipeline(
            tiny_components(config, dtype=torch.bfloat16), Execution(precision=precision, attention_backend="sdpa")
        )
        for precision in ("exact", "fp8")
    )
    assert is_float8(float8.dit)
    return exact, float8


@pytest.mark.parametrize("faces", [{}, *FACES.values()], ids=["no mask", *FACES])
@pytest.mark.parametrize("reuse", [None, REUSE], ids=["every branch", "kept branches"])
def test_float8(both, faces: dict, reuse: dict | None) -> None:
    exact, float8 = both
    options = {**faces, "guidance_reuse": reuse}
    expected, other_seed = (generate(exact, **options | {"seed": seed}) for seed in (3, 4))
    found = generate(float8, **options)
    near, far = (np.abs(found - made).mean() for made in (expected, other_seed))
    assert 0 < near < far
