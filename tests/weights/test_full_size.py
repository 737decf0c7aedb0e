"""The published models at their true sizes, by name and shape: nothing is allocated."""

import gzip
import json

import pytest
import torch

from humo_rt.config import PRESETS, preset
from humo_rt.weights.modules import build_on_meta, float32_rule, parameter_bytes
from humo_rt.weights.names import dit_name, umt5_name, vae_rename
from tests.golden_data import GOLDEN

MANIFESTS = {"humo-1.7b": "humo_1_7b", "humo-17b": "humo_17b"}


def manifest(name):
    entries = json.loads(gzip.decompress((GOLDEN / "manifests" / f"{name}.json.gz").read_bytes()))
    return {name: tuple(shape) for name, (shape, _) in entries.items()}


def shapes(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.fixture(scope="module", params=list(MANIFESTS))
def model(request):
    return request.param, build_on_meta(PRESETS[request.param])


def test_every_published_tensor_has_its_place(model):
    name, modules = model
    assert {dit_name(key): shape for key, shape in manifest(MANIFESTS[name]).items()} == shapes(modules["dit"])
    rename = vae_rename(preset(name).vae.num_res_blocks)
    assert {rename(key): shape for key, shape in manifest("wan21_vae").items()} == shapes(modules["vae"].autoencoder)
    text = shapes(modules["text_encoder"])
    del text["encoder.embed_tokens.weight"]
    assert {umt5_name(key): shape for key, shape in manifest("umt5_xxl_encoder").items()} == text


def test_parameters_are_counted_exactly(model):
    name, modules = model
    numbers = {"humo-1.7b": 1_741_569_088, "humo-17b": 17_055_925_312}
    sizes = parameter_bytes(modules, torch.float32)
    assert sizes["dit"] == 4 * numbers[name]
    assert sizes["vae"] == 4 * 126_892_531
    assert sizes["text_encoder"] == 4 * 5_680_910_336
    wide = float32_rule(modules["dit"])
    kept = sum(p.numel() for key, p in modules["dit"].named_parameters() if wide(key))
    assert parameter_bytes(modules, torch.bfloat16)["dit"] == 2 * numbers[name] + 2 * kept
    assert kept < 0.02 * numbers[name]
