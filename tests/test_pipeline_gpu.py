"""The whole pipeline on a GPU, toy size: every mode and layout in bf16, and float32 against the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from humo_rt.config import HUMO_1_7B
from humo_rt.pipeline import Pipeline
from humo_rt.runtime.execution import Execution
from tests.tiny import tiny_components, tiny_config, tiny_pipeline

pytestmark = pytest.mark.gpu

PROMPT = "A woman is talking to the camera."
LAYOUTS = ("frames", "channels")


def given(mode: str) -> dict:
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 256, (40, 30, 3), dtype=np.uint8) for _ in range(2)]
    sound = noise.normal(0, 0.1, 6_000).astype(np.float32)
    return {"image": images if "I" in mode else None, "audio": (sound, 16_000) if "A" in mode else None}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["T", "TI", "TA", "TIA"])
@pytest.mark.parametrize("sampler", ["unipc", "euler"])
def test_every_mode_twice_the_same(layout: str, mode: str, sampler: str, tmp_path) -> None:
    pipeline = tiny_pipeline(layout, torch.bfloat16, "cuda")
    options = {"num_frames": 9, "seed": 3, "sampler": sampler, **given(mode)}
    first = pipeline.generate(PROMPT, output=tmp_path / "video.mp4", **options)
    assert np.array_equal(first.frames, pipeline.generate(PROMPT, **options).frames)
    assert first.settings["noise_device"] == "cuda"
    assert first.frames.std() > 0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "faces",
    [
        {"face_masks": (0, 0, 16, 32)},
        {"face_masks": (0, 0, 48, 32)},
        {"face_masks": "predictor"},
        {"speakers": 2, "face_masks": [(0, 0, 16, 32), (32, 0, 48, 32)]},
    ],
    ids=["a face", "everywhere", "predictor", "two speakers"],
)
def test_face_masks_give_the_same_in_whatever_groups_branches_run(layout: str, faces: dict) -> None:
    """In float32, where no rounding of bf16 can move a predicted mask."""
    pipeline, conditions = tiny_pipeline(layout, torch.float32, "cuda"), given("TIA")
    speakers = faces.get("speakers")
    if speakers:
        samples, rate = conditions["audio"]
        conditions["audio"] = [(samples, rate), (samples[::-1].copy(), rate)]
    options = {"num_frames": 9, "seed": 3, "num_inference_steps": 3, "face_masks": faces["face_masks"], **conditions}
    first, second, apart = (
        pipeline.generate(PROMPT, branch_batch_size=batch, **options).frames.astype(float) for batch in (None, None, 1)
    )
    assert np.array_equal(first, second)
    assert np.abs(first - apart).mean() < 0.5


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [1, 2])
def test_branches_may_share_a_forward_or_not(layout: str, size: int) -> None:
    pipeline = tiny_pipeline(layout, torch.float32, "cuda")
    together, apart = (
        pipeline.generate(PROMPT, num_frames=5, seed=3, branch_batch_size=batch, **given("TIA")).frames.astype(float)
        for batch in (None, size)
    )
    assert np.abs(together - apart).mean() < 0.5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_float32_is_the_cpus_video(layout: str) -> None:
    """The same weights and the same noise, drawn on the CPU, on both devices."""
    tiny = tiny_pipeline(layout)
    # Random weights depend on the kind of device, so the GPU is given the CPU's.
    on_gpu = tiny_pipeline(layout, torch.float32, "cuda")
    for there, here in ((on_gpu.dit, tiny.dit), (on_gpu.vae, tiny.vae)):
        there.load_state_dict(here.state_dict())
    for there, here in ((on_gpu.encoder.text, tiny.encoder.text), (on_gpu.encoder.audio, tiny.encoder.audio)):
        there.encoder.load_state_dict(here.encoder.state_dict())
    on_gpu.clear_caches()
    videos = [
        pipeline.generate(PROMPT, num_frames=5, generator=torch.Generator().manual_seed(3), **given("TIA")).frames
        for pipeline in (tiny, on_gpu)
    ]
    assert np.abs(videos[0].astype(float) - videos[1]).mean() < 1.0


def test_latents_in_half_precision_from_a_callback_go_on() -> None:
    """In float32, where a video shows no more than what the callback rounds away: bf16 enlarges anything."""
    pipeline = tiny_pipeline("frames", torch.float32, "cuda")
    options = {"num_frames": 5, "seed": 3, **given("TIA")}
    plain = pipeline.generate(PROMPT, **options).frames.astype(float)
    halved = pipeline.generate(
        PROMPT, callback_on_step_end=lambda *seen: {"latents": seen[-1]["latents"].half().cpu()}, **options
    )
    assert np.abs(halved.frames - plain).mean() < 0.5


@pytest.mark.parametrize("second", [{"precision": "fp8"}, {"attention_backend": "sdpa"}], ids=str)
def test_a_second_pipeline_that_would_change_the_dit_is_refused(second: dict) -> None:
    components = tiny_components(tiny_config(HUMO_1_7B), dtype=torch.bfloat16, device="cuda")
    first = Pipeline(components, Execution(attention_backend="sdpa-flash"))
    options = {"num_frames": 5, "seed": 3, **given("TIA")}
    expected = first.generate(PROMPT, **options)
    with pytest.raises(ValueError, match="the DiT of these components was set up for"):
        Pipeline(components, Execution(**second))
    assert np.array_equal(first.generate(PROMPT, **options).frames, expected.frames)
    shared = Pipeline(components, Execution(attention_backend="sdpa-flash"))
    assert np.array_equal(shared.generate(PROMPT, **options).frames, expected.frames)


def test_encoders_in_host_memory_change_no_frame() -> None:
    options = {"num_frames": 5, "seed": 3, **given("TIA")}
    resident, offloaded = (
        Pipeline.from_pretrained("nano", device="cuda", offload_encoders=offload) for offload in (False, True)
    )
    frames = [pipeline.generate(PROMPT, num_inference_steps=2, **options).frames for pipeline in (resident, offloaded)]
    assert np.array_equal(*frames)
    kept = [*offloaded.encoder.text.encoder.parameters(), *offloaded.encoder.audio.encoder.parameters()]
    assert {tensor.device.type for tensor in kept} == {"cpu"}
