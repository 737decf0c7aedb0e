from __future__ import annotations

import gzip
import json

import pytest
import torch

from humo_rt.config import PRESETS, AudioEncoderConfig, TextEncoderConfig, preset
from humo_rt.model.encoders import build_audio_encoder, build_text_encoder
from tests.golden_data import GOLDEN, case_ids, load_group, load_json
from tests.model.golden_umt5 import golden_umt5

ATOL = 5e-5


@pytest.mark.parametrize("case_id", case_ids("t5"))
def test_text_encoder_computes_the_published_numbers(case_id):
    tensors, encoder = load_group("t5")[1], golden_umt5()
    with torch.no_grad():
        out = encoder(input_ids=tensors[f"{case_id}.ids"], attention_mask=tensors[f"{case_id}.mask"]).last_hidden_state
    torch.testing.assert_close(out, tensors[f"{case_id}.out"], atol=ATOL, rtol=0)


def test_full_text_encoder_has_the_published_names_and_shapes():
    with gzip.open(GOLDEN / "manifests" / "umt5_xxl_encoder.json.gz", "rt") as file:
        manifest = json.load(file)
    with torch.device("meta"):
        encoder = build_text_encoder(TextEncoderConfig())
    shapes = {name: list(p.shape) for name, p in encoder.named_parameters()}
    layer_names = load_json("t5_keymap_transformers")["map"]
    expected = {_transformers_name(name, layer_names): shape for name, (shape, _) in manifest.items()}
    assert shapes == expected


def _transformers_name(official: str, layer_names: dict[str, str]) -> str:
    if not official.startswith("blocks."):
        return layer_names[official]
    _, index, rest = official.split(".", 2)
    return layer_names[f"blocks.0.{rest}"].replace("encoder.block.0.", f"encoder.block.{index}.")


def test_full_audio_encoder_is_whisper_large_v3():
    with torch.device("meta"):
        encoder = build_audio_encoder(AudioEncoderConfig())
    assert sum(p.numel() for p in encoder.parameters()) == 636_968_960
    assert encoder.conv1.weight.shape == (1280, 128, 3)
    assert len(encoder.layers) == 32


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_pools_its_audio_states_into_four_bands(name):
    assert PRESETS[name].audio_encoder.num_layers % 4 == 0
    assert PRESETS[name].audio_encoder.d_model == PRESETS[name].dit.audio_dim
    assert PRESETS[name].text_encoder.d_model == PRESETS[name].dit.text_dim


def test_nano_audio_encoder_gives_five_states():
    encoder = build_audio_encoder(preset("nano").audio_encoder)
    with torch.no_grad():
        states = encoder(torch.zeros(1, 80, 3000), output_hidden_states=True).hidden_states
    assert [tuple(s.shape) for s in states] == [(1, 1500, 256)] * 5


def test_encoders_are_ready_for_inference():
    nano = preset("nano")
    assert not build_text_encoder(nano.text_encoder).training
    assert not build_audio_encoder(nano.audio_encoder).training
