"""Profiles: from a preset or from options to the range of every input, and what fits which."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from humo_rt.config import HUMO_1_7B, HUMO_17B, NANO
from humo_rt.tensorrt.bindings import Size
from humo_rt.tensorrt.profiles import Profile, choose_profile, model_of, options_for, parse_size, profiles_for
from humo_rt.tensorrt.spec import GraphSpec
from tests.tensorrt.small_graphs import tiny_spec


@pytest.mark.parametrize("model", [NANO, HUMO_1_7B, HUMO_17B], ids=lambda model: model.name)
def test_a_preset_covers_what_it_generates(model):
    (profile,) = profiles_for(model.dit)
    frames = (model.num_frames - 1) // 4 + 1
    for branches in (1, 3):
        for references in (1, 4):
            size = Size(branches=branches, frames=frames + references, height=model.height // 8, width=model.width // 8)
            assert profile.covers(size)
    assert profile.covers(Size(branches=1, frames=2, height=model.height // 8, width=model.width // 8))
    assert profile.typical.frames == frames + 1


def test_every_input_grows_with_the_size():
    spec = GraphSpec(config=HUMO_17B.dit, dtype=torch.bfloat16, face_mask=True)
    (profile,) = profiles_for(spec.config)
    for binding in spec.inputs:
        smallest, typical, largest = profile.shapes(binding, spec.config)
        assert all(1 <= low <= middle <= high for low, middle, high in zip(smallest, typical, largest))


def test_options_replace_what_the_preset_says():
    first, second = profiles_for(NANO.dit, sizes=[(256, 128), (128, 256)], num_frames=49, branches=2, references=3)
    assert first.largest == Size(branches=2, frames=13 + 3, height=16, width=32)
    assert first.smallest == Size(branches=1, frames=2, height=8, width=16)
    assert second.typical == Size(branches=2, frames=14, height=32, width=16)


def test_a_mask_predictor_does_not_make_another_model():
    assert model_of(dataclasses.replace(HUMO_1_7B.dit, mask_predictor=True)) is HUMO_1_7B
    assert model_of(dataclasses.replace(HUMO_1_7B.dit, num_layers=2)) is None


def test_a_model_of_ones_own_needs_every_size():
    config = tiny_spec().config
    with pytest.raises(ValueError, match="no preset.*pass --size, --num-frames and --branches"):
        profiles_for(config, sizes=[(48, 32)])
    assert len(profiles_for(config, sizes=[(48, 32)], num_frames=9, branches=4)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": [(100, 128)]}, "size 100x128 is not a multiple of 16: try 96x128"),
        ({"sizes": [(0, 128)]}, "size 0x128"),
        ({"num_frames": 98}, "num_frames 98 is not 4n[+]1: try 97"),
        ({"num_frames": 0}, "num_frames 0 is not 4n[+]1: try 1"),
        ({"num_frames": -7}, "num_frames -7 is not 4n[+]1: try 1"),
        ({"branches": -1}, "-1 branches and 4 references"),
        ({"branches": 0}, "0 branches and 4 references"),
        ({"references": 0}, "and 0 references"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        profiles_for(NANO.dit, **options)


def test_the_closest_profile_is_chosen():
    profiles = profiles_for(NANO.dit, sizes=[(256, 256), (128, 128)])
    assert choose_profile(profiles, Size(branches=3, frames=26, height=16, width=16), "engine") == 1
    assert choose_profile(profiles, Size(branches=3, frames=26, height=30, width=30), "engine") == 0


@pytest.mark.parametrize("references", [None, 2, 6])
@pytest.mark.parametrize(
    "size",
    [
        Size(branches=6, frames=40, height=20, width=12),  # more of everything
        Size(branches=1, frames=2, height=4, width=4),  # smaller than half
        Size(branches=2, frames=26, height=16, width=62),  # wider than all
    ],
    ids=str,
)
def test_the_options_named_for_a_size_cover_it_and_what_was_covered_before(size, references):
    sizes = [(128, 128), (256, 128)]
    profiles = profiles_for(NANO.dit, sizes=sizes, references=references)
    with pytest.raises(ValueError, match="fit no profile of dit.engine .1-3 branches, 2-.*8-16x16-32.: build"):
        choose_profile(profiles, size, "dit.engine")
    words = options_for(profiles, size).split()
    given = list(zip(words[::2], words[1::2], strict=True))
    numbers = {name[2:].replace("-", "_"): int(value) for name, value in given if name != "--size"}
    wider = profiles_for(NANO.dit, sizes=[parse_size(value) for name, value in given if name == "--size"], **numbers)
    for wanted in (size, *(end for old in profiles for end in (old.smallest, old.typical, old.largest))):
        assert any(profile.covers(wanted) for profile in wider), wanted


@pytest.mark.parametrize("text", ["832", "832x", "832x480x3", "ax b", ""])
def test_a_size_is_written_width_x_height(text):
    with pytest.raises(ValueError, match="is not WIDTHxHEIGHT: write it like 832x480"):
        parse_size(text)
    assert parse_size("832x480") == (832, 480)


def test_a_profile_out_of_order_is_refused():
    size = Size(branches=1, frames=2, height=2, width=2)
    with pytest.raises(ValueError, match="frames 2 to 1"):
        Profile(smallest=size, typical=size, largest=dataclasses.replace(size, frames=1))
