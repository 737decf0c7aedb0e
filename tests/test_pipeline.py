"""From request to MP4, in every mode and both layouts, with toy weights."""

from __future__ import annotations

import json
import weakref

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

import humo_rt.pipeline
from humo_rt import GenerateOptions, GuidanceRow, GuidanceTable, Pipeline
from humo_rt.config import HUMO_1_7B
from humo_rt.media import read_settings, read_sound, read_video
from tests.tiny import tiny_components, tiny_config, tiny_pipeline

PROMPT = "A woman is talking to the camera."
LAYOUTS = ("frames", "channels")


@pytest.fixture
def conditions() -> dict:
    noise = np.random.default_rng(0)
    sound = noise.normal(0, 0.1, 6_000).astype(np.float32)
    images = [noise.integers(0, 256, (40, 30, 3), dtype=np.uint8) for _ in range(2)]
    return {"image": images, "audio": (sound, 16_000)}


def chosen(conditions: dict, mode: str) -> dict:
    letters = {"image": "I", "audio": "A"}
    return {name: value for name, value in conditions.items() if letters[name] in mode}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["T", "TI", "TA", "TIA"])
def test_every_mode_of_both_layouts(layout: str, mode: str, conditions: dict) -> None:
    result = tiny_pipeline(layout).generate(PROMPT, num_frames=9, seed=3, **chosen(conditions, mode))
    assert result.frames.shape == (9, 32, 48, 3)
    assert result.frames.dtype == np.uint8
    assert result.frames.std() > 0
    assert (result.audio is not None) == ("A" in mode)
    assert result.seed == 3
    assert result.timings["total"] >= result.timings["denoise"] > 0
    json.dumps(result.settings)


def test_conditions_change_the_video(conditions: dict) -> None:
    pipeline = tiny_pipeline("frames")
    videos = [
        pipeline.generate(PROMPT, num_frames=9, seed=3, **chosen(conditions, m)).frames for m in ("T", "TI", "TA")
    ]
    assert not np.array_equal(videos[0], videos[1])
    assert not np.array_equal(videos[0], videos[2])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_face_mask_confines_the_audio(layout: str, conditions: dict) -> None:
    pipeline = tiny_pipeline(layout)
    free, everywhere, left = (
        pipeline.generate(PROMPT, num_frames=9, seed=3, **conditions, **masks)
        for masks in ({}, {"face_masks": (0, 0, 48, 32)}, {"face_masks": [(0, 0, 16, 32)]})
    )
    assert np.array_equal(free.frames, everywhere.frames)
    assert not np.array_equal(free.frames, left.frames)
    assert left.settings["face_masks"] == [(0, 0, 16, 32)]
    assert free.settings["face_masks"] is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_speakers_share_a_video(layout: str, conditions: dict, tmp_path) -> None:
    first, rate = conditions["audio"]
    second = np.tile(first[::-1], 2) / 2
    left, right = (0, 0, 16, 32), [(32, 0, 48, 16), (32, 16, 48, 32)]
    fixed = {"image": conditions["image"], "seed": 3, "num_inference_steps": 2}

    def video(*sounds: np.ndarray, masks: list, **options):
        given = {"audio": [(sound, rate) for sound in sounds], "face_masks": masks, **fixed}
        return tiny_pipeline(layout).generate(PROMPT, **given, **options)

    both = video(first, second, masks=[left, right], output=tmp_path / "video.mp4")
    assert len(both.frames) == 17  # as long as the longer
    assert both.settings["face_masks"] == [left, right]
    mixed = second + np.pad(first, (0, len(second) - len(first)))
    heard = (mixed / max(1, np.abs(mixed).max()))[: len(both.audio)]
    assert np.abs(both.audio[:, 0] - heard).max() < 1e-6
    assert read_sound(tmp_path / "video.mp4").seconds == pytest.approx(17 / 25, abs=0.07)
    swapped = video(second, first, masks=[right, left])
    assert np.abs(swapped.frames.astype(int) - both.frames).max() <= 1
    assert not np.array_equal(video(second, first, masks=[left, right]).frames, both.frames)
    alone = tiny_pipeline(layout).generate(PROMPT, audio=(second, rate), face_masks=[left, *right], **fixed)
    assert not np.array_equal(alone.frames, both.frames)
    twice = video(second, second, masks=[left, right])
    assert np.abs(twice.frames.astype(int) - alone.frames).max() <= 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_model_may_find_the_face_itself(layout: str, conditions: dict) -> None:
    pipeline = tiny_pipeline(layout)
    options = {"num_frames": 9, "seed": 3, "num_inference_steps": 3, **conditions}
    predicted = pipeline.generate(PROMPT, **options, face_masks="predictor")
    assert predicted.settings["face_masks"] == "predictor"
    assert predicted.settings["face_mask_threshold"] == 0.5
    everywhere = pipeline.generate(PROMPT, **options, face_masks="predictor", face_mask_threshold=1e-9)
    free = pipeline.generate(PROMPT, **options)
    assert np.array_equal(everywhere.frames, free.frames)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_seed_gives_the_same_frames_to_the_bit(layout: str, conditions: dict) -> None:
    pipeline = tiny_pipeline(layout)
    first, second, other = (
        pipeline.generate(PROMPT, seed=seed, num_frames=5, **conditions).frames for seed in (7, 7, 8)
    )
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "levels"), [(torch.bfloat16, 8.0), (torch.float16, 3.0)])
def test_half_precision_stays_close(layout: str, dtype: torch.dtype, levels: float, conditions: dict) -> None:
    exact, rounded = (
        tiny_pipeline(layout, kind).generate(PROMPT, seed=3, num_frames=5, **conditions).frames.astype(float)
        for kind in (torch.float32, dtype)
    )
    assert 0 < np.abs(rounded - exact).mean() < levels


def test_a_generator_is_a_seed() -> None:
    pipeline = tiny_pipeline("frames")
    by_generator = pipeline.generate(PROMPT, num_frames=5, generator=torch.Generator().manual_seed(11))
    assert by_generator.seed == 11
    assert np.array_equal(by_generator.frames, pipeline.generate(PROMPT, num_frames=5, seed=11).frames)


def test_the_settings_in_the_file_make_the_video_again(tmp_path, conditions: dict) -> None:
    """With a table, two images and sound, all read back from the MP4."""
    Image.fromarray(conditions["image"][0]).save(tmp_path / "face.png")
    soundfile.write(tmp_path / "speech.wav", *conditions["audio"])
    table = GuidanceTable((GuidanceRow({"TIA": 2.0, "T": -1.0}, above=900), GuidanceRow({"TIA": 1.0})))
    result = tiny_pipeline("frames").generate(
        PROMPT,
        image=[tmp_path / "face.png"] * 2,
        audio=tmp_path / "speech.wav",
        guidance=table,
        sampler="euler",
        output=tmp_path / "video.mp4",
    )
    settings = read_settings(tmp_path / "video.mp4")
    assert (settings["seed"], settings["dtype"], settings["device"]) == (result.seed, "float32", "cpu")
    assert settings["weights"] is None
    options = {name: settings[name] for name in GenerateOptions.__annotations__ if name in settings}
    again = tiny_pipeline("frames").generate(settings["prompt"], **options)
    assert np.array_equal(again.frames, result.frames)
    assert again.settings == settings


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_single_frame(layout: str, tmp_path, conditions: dict) -> None:
    result = tiny_pipeline(layout).generate(PROMPT, num_frames=1, output=tmp_path / "video.mp4", **conditions)
    assert result.frames.shape == (1, 32, 48, 3)
    assert len(result.audio) == 640
    assert len(read_video(tmp_path / "video.mp4")[0]) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_branches_may_share_a_forward_or_not(layout: str, conditions: dict) -> None:
    sizes = (None, 1, 2)
    videos = [
        tiny_pipeline(layout).generate(PROMPT, num_frames=5, seed=3, branch_batch_size=size, **conditions).frames
        for size in sizes
    ]
    for video in videos[1:]:
        assert np.abs(video.astype(int) - videos[0]).max() <= 1


@pytest.mark.parametrize(
    ("sound", "rate"),
    [
        (np.zeros(8_000), 16_000),
        (np.random.default_rng(1).normal(0, 0.1, (2, 4_000)), 8_000),
        (np.random.default_rng(1).normal(0, 0.1, 700), 16_000),
        (np.random.default_rng(1).normal(0, 0.1, (44_100, 1)), 44_100),
    ],
    ids=["silence", "stereo at 8 kHz", "shorter than the video", "longer than the video"],
)
def test_any_sound(sound: np.ndarray, rate: int, tmp_path) -> None:
    result = tiny_pipeline("frames").generate(
        PROMPT, audio=(sound.astype(np.float32), rate), num_frames=9, output=tmp_path / "video.mp4"
    )
    assert result.frames.shape[0] == 9
    assert (len(result.audio), result.sample_rate) == (round(9 / 25 * rate), rate)
    assert read_sound(tmp_path / "video.mp4").seconds == pytest.approx(9 / 25, abs=0.15)


def test_sound_over_30_seconds_is_heard() -> None:
    """Over 30 s Whisper reads it in chunks; the video stays as long as asked."""
    samples = np.random.default_rng(1).normal(0, 0.1, 31 * 16_000).astype(np.float32)
    result = tiny_pipeline("frames").generate(PROMPT, audio=(samples, 16_000), num_frames=5, seed=0)
    assert result.frames.shape[0] == 5
    assert np.array_equal(result.audio[:, 0], samples[: 5 * 640])


def test_video_and_sound_have_one_length(tmp_path, conditions: dict) -> None:
    path = tmp_path / "video.mp4"
    result = tiny_pipeline("frames").generate(PROMPT, audio=conditions["audio"], num_frames=33, output=path)
    frames, fps = read_video(path)
    assert (len(frames), fps) == (33, 25)
    assert len(result.audio) == round(33 / 25 * 16_000)
    assert np.abs(result.audio[6_000:]).max() == 0
    assert read_sound(path).seconds == pytest.approx(33 / 25, abs=0.07)


def test_num_frames_follows_the_sound(conditions: dict) -> None:
    assert len(tiny_pipeline("frames").generate(PROMPT, audio=conditions["audio"]).frames) == 9


def test_stream_yields_the_same_frames_in_blocks(tmp_path, conditions: dict) -> None:
    pipeline, path = tiny_pipeline("channels"), tmp_path / "video.mp4"
    blocks = list(pipeline.generate_stream(PROMPT, num_frames=37, seed=1, output=path, **conditions))
    assert len(blocks) > 1
    whole = pipeline.generate(PROMPT, num_frames=37, seed=1, **conditions).frames
    assert np.array_equal(np.concatenate(blocks), whole)
    assert len(read_video(path)[0]) == 37


def test_an_abandoned_stream_leaves_no_file(tmp_path) -> None:
    stream = tiny_pipeline("frames").generate_stream(PROMPT, num_frames=37, output=tmp_path / "video.mp4")
    next(stream)
    stream.close()
    assert list(tmp_path.iterdir()) == []


def test_encoders_cannot_be_kept_off_a_gpu_that_is_not_used() -> None:
    with pytest.raises(ValueError, match="offload_encoders=True keeps encoders off the GPU"):
        Pipeline.from_pretrained("nano", device="cpu", offload_encoders=True)


def test_a_stream_refuses_bad_arguments_when_it_is_asked_for() -> None:
    with pytest.raises(ValueError, match="num_frames 96"):
        tiny_pipeline("frames").generate_stream(PROMPT, num_frames=96)


def test_callback_sees_every_step_and_may_change_the_latents() -> None:
    seen = []

    def callback(pipeline, step, timestep, tensors):
        seen.append((step, timestep))
        return {"latents": torch.zeros_like(tensors["latents"])}

    pipeline = tiny_pipeline("frames")
    result = pipeline.generate(PROMPT, num_frames=5, seed=0, num_inference_steps=3, callback_on_step_end=callback)
    assert [step for step, _ in seen] == [0, 1, 2]
    assert [t for _, t in seen] == sorted((t for _, t in seen), reverse=True)
    assert not np.array_equal(
        result.frames, pipeline.generate(PROMPT, num_frames=5, seed=0, num_inference_steps=3).frames
    )


@pytest.mark.parametrize(
    "size", [{"height": 48, "width": 32}, {"height": 32, "width": 32}, {"height": 16, "width": 80}]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_size_of_16(layout: str, size: dict) -> None:
    frames = tiny_pipeline(layout).generate(PROMPT, num_frames=5, **size).frames
    assert frames.shape == (5, size["height"], size["width"], 3)


def test_own_guidance_table(conditions: dict) -> None:
    table = GuidanceTable((GuidanceRow({"TIA": 2.0, "T": -1.0}, above=900), GuidanceRow({"TIA": 1.0})))
    result = tiny_pipeline("frames").generate(PROMPT, num_frames=5, guidance=table, **conditions)
    assert result.settings["guidance"][0]["above"] == 900


@pytest.mark.parametrize("sampler", ["unipc", "euler"])
def test_samplers(sampler: str) -> None:
    assert tiny_pipeline("frames").generate(PROMPT, num_frames=5, sampler=sampler).frames.shape[0] == 5


def test_a_result_that_is_not_finite_is_refused(tmp_path) -> None:
    def poison(pipeline, step, timestep, tensors):
        return {"latents": tensors["latents"] * float("nan")}

    with pytest.raises(RuntimeError, match="not finite"):
        tiny_pipeline("frames").generate(PROMPT, callback_on_step_end=poison, output=tmp_path / "video.mp4")
    assert list(tmp_path.iterdir()) == []


def test_frames_that_are_not_finite_are_refused(tmp_path) -> None:
    components = tiny_components(tiny_config(HUMO_1_7B))
    components.vae.autoencoder.post_quant_conv.bias.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="decoded frames are not finite"):
        Pipeline(components).generate(PROMPT, num_frames=5, output=tmp_path / "video.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_does_not_fit_is_refused_before_any_work(tmp_path) -> None:
    with pytest.raises(RuntimeError, match="too little memory: 16000x16000 with 97 frames"):
        tiny_pipeline("frames").generate(
            PROMPT, height=16_000, width=16_000, num_frames=97, output=tmp_path / "video.mp4"
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("reuse", "contexts"), [(None, 2), (2, 2 + 1), ({"0": 1}, 2)], ids=str)
def test_memory_is_asked_for_every_set_of_branches_that_runs(monkeypatch, reuse, contexts: int) -> None:
    asked = {}
    needed = humo_rt.pipeline.activation_bytes
    monkeypatch.setattr(
        humo_rt.pipeline, "activation_bytes", lambda config, **sizes: asked.update(sizes) or needed(config, **sizes)
    )
    tiny_pipeline("frames").generate(PROMPT, num_frames=5, num_inference_steps=3, guidance_reuse=reuse)
    assert (asked["branches"], asked["contexts"]) == (2, contexts)


def test_interrupting_leaves_no_file(tmp_path) -> None:
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_pipeline("frames").generate(PROMPT, callback_on_step_end=interrupt, output=tmp_path / "video.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_result_can_be_saved_later(tmp_path, conditions: dict) -> None:
    result = tiny_pipeline("frames").generate(PROMPT, **conditions)
    path = result.save(tmp_path / "later.mp4")
    assert len(read_video(path)[0]) == len(result.frames)
    assert read_settings(path)["seed"] == result.seed


def test_generate_keeps_its_pipeline_and_frees_it_before_the_next(monkeypatch) -> None:
    loads = []

    class Loaded:
        def generate(self, prompt: str, **options) -> str:
            return prompt

    def load(preset: str, **arguments) -> Loaded:
        assert all(loaded() is None for loaded in loads), "two models in memory at once"
        pipeline = Loaded()
        loads.append(weakref.ref(pipeline))
        return pipeline

    monkeypatch.setattr(Pipeline, "from_pretrained", load)
    monkeypatch.setattr(humo_rt.pipeline, "_loaded", {})
    for preset in ("nano", "nano", "humo-1.7b"):
        assert humo_rt.generate(PROMPT, preset=preset) == PROMPT
    assert len(loads) == 2


def test_what_cannot_work_is_refused_before_a_model_is_loaded(monkeypatch) -> None:
    monkeypatch.setattr(Pipeline, "from_pretrained", lambda *_, **__: pytest.fail("loaded a model for nothing"))
    monkeypatch.setattr(humo_rt.pipeline, "_loaded", {})
    with pytest.raises(ValueError, match="num_frames 98 is not 4n"):
        humo_rt.generate(PROMPT, num_frames=98)
    with pytest.raises(TypeError, match="num_frame"):
        humo_rt.generate(PROMPT, num_frame=97)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"dtype 'float32' is not a torch\.dtype"):
        Pipeline.from_pretrained("nano", dtype="float32", device="cpu")


def test_the_callers_autocast_changes_nothing(conditions: dict) -> None:
    pipeline = tiny_pipeline("frames")
    pipeline.clear_caches()
    with torch.autocast("cpu", torch.bfloat16):
        result = pipeline.generate(PROMPT, num_frames=5, seed=0, num_inference_steps=2, **conditions)
        assert torch.is_autocast_enabled("cpu")
    pipeline.clear_caches()
    expected = pipeline.generate(PROMPT, num_frames=5, seed=0, num_inference_steps=2, **conditions)
    assert np.array_equal(result.frames, expected.frames)
