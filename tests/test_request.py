"""What a request accepts, what it fills in, and how it says no."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import fields

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from humo_rt.config import HUMO_1_7B, HUMO_17B, NANO
from humo_rt.options import GenerateOptions
from humo_rt.request import GenerationRequest
from humo_rt.sampling.guidance import GuidanceRow, GuidanceTable
from tests.golden_data import case, case_ids

RATE = 16_000
PORTRAIT = np.zeros((20, 30, 3), np.uint8)
BOXES = [(0, 0, 32, 64), (64, 0, 128, 64)]
TWO = [(np.zeros(16_000, np.float32), 16_000), (np.zeros(32_000, np.float32), 16_000)]
PREDICTED = {"face_masks": "predictor", "audio": TWO[0]}


def request(prompt: str = "a person speaks", **options) -> GenerationRequest:
    return GenerationRequest(prompt=prompt, **options)


def speech(num_samples: int) -> tuple[np.ndarray, int]:
    return np.zeros(num_samples, np.float32), RATE


def test_the_options_are_the_fields():
    names = [field.name for field in fields(GenerationRequest)]
    assert set(names) == {"prompt", *GenerateOptions.__annotations__}
    for name in GenerateOptions.__annotations__:
        assert name in GenerateOptions.__doc__


def test_defaults_come_from_the_preset():
    filled = request().validated(HUMO_17B)
    assert (filled.height, filled.width, filled.num_frames, filled.num_inference_steps) == (720, 1280, 97, 50)
    assert (filled.flow_shift, filled.guidance, filled.guidance_switch_timestep) == (5.0, "humo-17b", 980.0)
    assert (filled.guidance_scale, filled.audio_guidance_scale, filled.image_guidance_scale) == (5.0, 5.5, None)
    assert filled.negative_prompt == HUMO_17B.negative_prompt
    assert filled.seed >= 0
    assert request().validated(HUMO_1_7B).image_guidance_scale == 4.0
    assert request(negative_prompt="").validated(HUMO_17B).negative_prompt == ""


def test_checking_twice_changes_nothing():
    once = request(audio=speech(2 * RATE), generator=torch.Generator().manual_seed(3)).validated(NANO)
    assert once.validated(NANO).settings() == once.settings()
    assert once.seed == 3


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ({}, "T"),
        ({"image": []}, "T"),
        ({"image": PORTRAIT}, "TI"),
        ({"image": [PORTRAIT, Image.fromarray(PORTRAIT)]}, "TI"),
        ({"audio": speech(RATE)}, "TA"),
        ({"audio": speech(RATE), "image": (PORTRAIT,)}, "TIA"),
    ],
)
def test_the_mode_follows_from_what_is_given(given, mode):
    assert request(**given).validated(NANO).mode == mode


@pytest.mark.parametrize("case_id", [c for c in case_ids("prep") if case("prep", c)["frame_num"] == -1])
def test_the_length_follows_the_audio_as_in_the_release(case_id):
    entry = case("prep", case_id)
    samples = entry["audio_hidden"]["shape"][1] // 2 * 640
    assert request(audio=speech(samples)).validated(NANO).num_frames == entry["frame_num_used"]


@pytest.mark.parametrize(("samples", "frames"), [(640, 5), (640 * 5, 5), (640 * 8, 5), (640 * 9, 9), (640 * 97, 97)])
def test_the_length_is_the_largest_that_fits_the_audio(samples, frames, caplog):
    assert request(audio=speech(samples)).validated(NANO).num_frames == frames
    assert not caplog.records


def test_long_audio_makes_a_long_video_with_one_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert request(audio=speech(12 * RATE)).validated(NANO).num_frames == 297
    assert len(caplog.records) == 1
    assert "beyond 97 nano degrades" in caplog.text
    caplog.clear()
    assert request(audio=speech(12 * RATE), num_frames=97).validated(NANO).num_frames == 97
    assert not caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 479}, "height 479 is not a multiple of 16: use 464 or 480"),
        ({"width": 8}, "width 8 is below 16: use 16 or more"),
        ({"width": 480.5}, r"width 480\.5 is not a whole number"),
        ({"height": True}, "height True is not a number"),
        ({"num_frames": 96}, r"num_frames 96 is not 4n\+1: use 93 or 97"),
        ({"num_frames": 0}, "num_frames 0 is below 1"),
        ({"prompt": " \n"}, r"prompt ' \\n' is empty"),
        ({"prompt": None}, "prompt None is empty"),
        ({"num_inference_steps": 0}, "num_inference_steps 0 is below 1: use 1 or more"),
        ({"num_inference_steps": 2000}, "num_inference_steps 2000 is above 1000"),
        ({"guidance_scale": -1}, "guidance_scale -1 is below 0"),
        ({"audio_guidance_scale": math.nan}, "audio_guidance_scale nan is not finite"),
        ({"image_guidance_scale": "strong"}, "image_guidance_scale 'strong' is not a number"),
        ({"flow_shift": 0}, "flow_shift 0 is not above 0"),
        ({"seed": -1}, "seed -1 is below 0"),
        ({"seed": 4, "generator": torch.Generator().manual_seed(5)}, "seed 4 and a generator are given"),
        ({"generator": 5}, "generator 5 is not a torch.Generator: give one, or a seed"),
        ({"sampler": "heun"}, "unknown sampler 'heun': choose one of unipc, euler"),
        ({"guidance": "strong"}, "unknown guidance 'strong'"),
        ({"guidance": 3}, "guidance rows 3 are not of the form"),
        ({"guidance": "none", "guidance_scale": 3.0}, "'none' does not use guidance_scale"),
        ({"face_masks": (0, 0, 16, 16)}, "face_masks are given without audio"),
        ({"face_masks": (0, 0, 999, 16), "audio": speech(RATE)}, "does not lie in the 128x128 video"),
        ({"face_masks": "detect", "audio": speech(RATE)}, "'detect' names no picture: write detect:FILE"),
        ({"face_masks": "predictor"}, "face_masks are given without audio"),
        ({"face_mask_threshold": 0.3}, r"face_mask_threshold 0\.3 is for face_masks 'predictor': leave it out"),
        ({**PREDICTED, "face_mask_threshold": 1}, "face_mask_threshold 1 leaves no face"),
        ({**PREDICTED, "face_mask_threshold": 0}, "face_mask_threshold 0 is not above 0"),
        ({**PREDICTED, "audio": TWO}, "'predictor' cannot tell 2 speakers apart"),
        ({**PREDICTED, "audio": TWO[:1], "face_masks": ["predictor"]}, "'predictor' is not the mask of one among"),
        ({"audio": TWO}, "2 speakers have 0 face masks: give a list with one mask for each audio"),
        ({"audio": TWO, "face_masks": [BOXES[0]]}, "2 speakers have 1 face mask: give a list with one mask for each"),
        ({"audio": TWO, "face_masks": "mask.png"}, "2 speakers have 1 face mask"),
        ({"audio": TWO, "face_masks": BOXES[0]}, "2 speakers have 1 face mask"),
        ({"audio": TWO[:1], "face_masks": BOXES[0]}, "audio is a list and 1 speaker has 1 face mask: give a list"),
        ({"audio": TWO * 2, "face_masks": BOXES[0]}, "4 speakers have 1 face mask: give a list"),
        ({"audio": tuple(TWO)}, r"a tuple is not \(samples, rate\): .* for several speakers a list"),
        ({"audio": ("a.wav", "b.wav")}, r"a tuple is not \(samples, rate\)"),
        ({"audio": TWO, "face_masks": [BOXES[0], None]}, "speaker 1 has no face mask: give one for each audio"),
        ({"audio": TWO, "face_masks": [BOXES[0], (0, 0, 999, 9)]}, "speaker 1: face box .* does not lie in"),
        ({"audio": TWO, "face_masks": [np.ones((8, 8)), BOXES[1]]}, "speaker 0: face mask is 8x8, the video 128x128"),
        ({"audio": TWO, "face_masks": [BOXES[0], np.zeros((128, 128))]}, "speaker 1: face mask is black everywhere"),
        ({"audio": [speech(RATE)], "face_masks": [*BOXES]}, "1 speaker has 2 face masks"),
        ({"audio": [speech(RATE), "nothing.wav"]}, "nothing.wav' does not exist"),
        ({"negative_prompt": 3}, "negative_prompt 3 is not a text"),
        ({"callback_on_step_end": "print"}, "callback_on_step_end 'print' is not a function"),
        ({"audio": np.zeros(RATE, np.float32)}, r"audio of type ndarray .* give a path or \(samples, rate\)"),
        ({"guidance": "humo-17b", "guidance_switch_timestep": 1001}, "guidance_switch_timestep 1001 is above 1000"),
        ({"branch_batch_size": 0}, "branch_batch_size 0 is below 1"),
        ({"audio": speech(600)}, r"audio of 0\.0375 s is shorter than one frame"),
        (
            {"audio": [speech(RATE), speech(600)], "face_masks": BOXES},
            r"audio of speaker 1 of 0\.0375 s is shorter than one frame",
        ),
        ({"audio": "nothing.wav"}, "nothing.wav' does not exist"),
        ({"image": "nothing.png"}, "nothing.png' does not exist"),
        ({"image": [PORTRAIT, np.zeros((3, 20, 30))]}, "is not an image"),
        ({"image": np.zeros((1, 3000, 3), np.uint8)}, "image of 3000x1 vanishes in 128x128: crop it"),
        ({"progress": "yes"}, "progress 'yes' is neither True nor False nor a function"),
        ({"guidance": [{"weights": {"T": "much"}}]}, "the weight of branch 'T' 'much' is not a number"),
        ({"guidance_reuse": {0: 2}}, "branch 0 is no name: write one like 'TIA'"),
        ({"guidance_reuse": {("T", 1): 2}}, r"branch \('T', 1\) is no name"),
        ({"guidance_scale": 10**400}, "guidance_scale 1000.* is not a number"),
        ({"output": "out.gif"}, r"suffix '\.gif'"),
        ({"output": "nowhere/out.mp4"}, "folder 'nowhere' does not exist"),
    ],
)
def test_what_cannot_work_is_named_with_its_rule_and_fix(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        request(**options).validated(NANO)
    assert "\n" not in str(caught.value)


def test_settings_are_json_and_make_the_same_request(tmp_path):
    Image.fromarray(PORTRAIT).save(tmp_path / "face.png")
    soundfile.write(tmp_path / "speech.wav", np.zeros(2 * RATE), RATE)
    first = request(
        image=tmp_path / "face.png", audio=tmp_path / "speech.wav", output=tmp_path / "out.mp4", seed=5, progress=True
    ).validated(HUMO_1_7B)
    settings = json.loads(json.dumps(first.settings()))
    assert (settings["image"], settings["num_frames"]) == ([str(tmp_path / "face.png")], 49)
    assert GenerationRequest(**settings).validated(HUMO_1_7B).settings() == first.settings()


def test_settings_describe_arrays_and_tables():
    table = GuidanceTable((GuidanceRow({"TIA": 2.0, "TA": -1.0}, above=500.0), GuidanceRow({"TIA": 1.0})))
    given = request(image=[PORTRAIT, Image.fromarray(PORTRAIT)], audio=speech(RATE), guidance=table).validated(NANO)
    settings = json.loads(json.dumps(given.settings()))
    assert settings["image"] == ["<image of 30x20>"] * 2
    assert settings["audio"] == "<samples (16000,) at 16000 Hz>"
    masks = request(audio=speech(RATE), num_frames=5, face_masks=np.ones((5, 480, 832), dtype=bool))
    assert masks.settings()["face_masks"] == "<5 masks of 832x480>"
    assert settings["guidance"][0] == {"above": 500.0, "weights": {"TIA": 2.0, "TA": -1.0}}
    assert request(guidance=settings["guidance"]).validated(NANO).guidance == table


def test_several_speakers():
    filled = request(audio=TWO, face_masks=BOXES).validated(NANO)
    assert (filled.mode, filled.num_frames) == ("TA", 49)  # as long as the longest
    assert filled.face_weights.shape == (2, 13, 16, 16)
    settings = json.loads(json.dumps(filled.settings()))
    assert settings["audio"] == ["<samples (16000,) at 16000 Hz>", "<samples (32000,) at 16000 Hz>"]
    assert settings["face_masks"] == [[0, 0, 32, 64], [64, 0, 128, 64]]
    each = request(audio=TWO, face_masks=[BOXES, np.ones((128, 128))]).validated(NANO)
    assert each.settings()["face_masks"] == [BOXES, "<image of 128x128>"]
    assert each.face_weights[0].sum() < each.face_weights[1].sum()


def test_boxes_of_numpy_are_numbers_in_the_settings():
    filled = request(audio=TWO[0], face_masks=[tuple(np.array(box, np.float32)) for box in BOXES]).validated(NANO)
    assert json.loads(json.dumps(filled.settings()))["face_masks"] == [list(box) for box in BOXES]
    masks = request(audio=TWO[0], face_masks=torch.ones(5, 128, 128))
    assert masks.settings()["face_masks"] == "<5 masks of 128x128>"


def test_a_list_with_one_sound_is_one_speaker():
    filled = request(audio=TWO[:1], face_masks=BOXES[:1]).validated(NANO)
    assert torch.equal(filled.face_weights, request(audio=TWO[0], face_masks=BOXES[0]).validated(NANO).face_weights)
    assert request(audio=TWO[:1]).validated(NANO).face_weights is None
    assert request(audio=[]).validated(NANO).mode == "T"


def test_predicted_faces():
    filled = request(**PREDICTED).validated(NANO)
    assert (filled.face_weights, filled.face_mask_threshold) == (None, 0.5)
    assert request(**PREDICTED, face_mask_threshold=0.2).validated(NANO).face_mask_threshold == 0.2
    assert filled.validated(NANO).settings() == filled.settings()
    assert request(**PREDICTED | {"audio": TWO[:1]}).validated(NANO).settings()["face_masks"] == "predictor"
    for published in (HUMO_1_7B, HUMO_17B):
        with pytest.raises(ValueError, match=f"mask predictor, which the weights of {published.name} do not carry"):
            request(**PREDICTED).validated(published)


def test_a_used_generator_is_said_not_to_be_a_seed(caplog):
    generator = torch.Generator().manual_seed(3)
    assert request(generator=generator).validated(NANO).seed == 3
    assert not caplog.records
    torch.randn(1, generator=generator)
    request(generator=generator).validated(NANO)
    assert "used before" in caplog.text


def test_numbers_of_other_libraries_become_pythons_own():
    rows = [{"above": np.float32(900), "weights": {"T": np.float32(2), "0": torch.tensor(-1.0)}}, {"weights": {"T": 1}}]
    scaled = request(guidance_scale=np.int64(5), audio_guidance_scale="4", guidance_switch_timestep=np.float32(900))
    for filled in (scaled.validated(HUMO_17B), request(guidance=rows).validated(NANO)):
        assert json.loads(json.dumps(filled.settings())) == filled.settings()
    assert scaled.validated(HUMO_17B).audio_guidance_scale == 4.0


def test_no_progress_may_be_none_too():
    assert not request(progress=None).validated(NANO).progress


def test_samples_in_a_list_are_described():
    assert request(audio=([0.0] * RATE, RATE)).validated(NANO).settings()["audio"] == "<samples (16000,) at 16000 Hz>"


def test_a_seed_that_torch_drew_can_be_given_back():
    assert request(seed=2**64 - 1).validated(NANO).seed == torch.Generator().manual_seed(2**64 - 1).initial_seed()
