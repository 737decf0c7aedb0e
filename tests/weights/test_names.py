import gzip
import json

import pytest

from humo_rt.weights.names import dit_name, refuse_lora, umt5_name, vae_rename, whisper_name
from tests.golden_data import GOLDEN, load_json


def _manifest(name):
    return json.loads(gzip.decompress((GOLDEN / "manifests" / f"{name}.json.gz").read_bytes()))


def test_every_official_vae_name_maps_as_recorded():
    keymap = load_json("vae_keymap_diffusers")["map"]
    rename = vae_rename(num_res_blocks=2)
    assert {name: rename(name) for name in keymap} == keymap
    assert set(_manifest("wan21_vae")) == set(keymap)


def test_diffusers_vae_names_are_left_alone():
    names = list(load_json("vae_keymap_diffusers")["map"].values())
    rename = vae_rename(num_res_blocks=2)
    assert [rename(name) for name in names] == names
    assert [rename("autoencoder." + name) for name in names] == names


def test_every_official_umt5_name_maps_as_recorded():
    keymap = load_json("t5_keymap_transformers")["map"]
    assert {name: umt5_name(name) for name in keymap} == keymap
    assert [umt5_name(name) for name in keymap.values()] == list(keymap.values())


def test_full_size_umt5_names_land_in_the_transformers_module():
    import torch
    from transformers import UMT5Config, UMT5EncoderModel

    with torch.device("meta"):
        module = UMT5EncoderModel(
            UMT5Config(vocab_size=256_384, d_model=4096, d_kv=64, d_ff=10_240, num_layers=24, num_heads=64)
        )
    expected = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    del expected["encoder.embed_tokens.weight"]  # tied to shared.weight
    assert {umt5_name(name): shape for name, (shape, _) in _manifest("umt5_xxl_encoder").items()} == expected


def test_dit_prefixes_of_comfyui_are_removed():
    for prefix in ("", "model.diffusion_model.", "diffusion_model."):
        assert dit_name(prefix + "blocks.0.self_attn.q.weight") == "blocks.0.self_attn.q.weight"
    assert dit_name("model.diffusion_model.scaled_fp8") is None


@pytest.mark.parametrize(
    "stored",
    [
        "layers.3.self_attn.q_proj.weight",
        "encoder.layers.3.self_attn.q_proj.weight",
        "model.encoder.layers.3.self_attn.q_proj.weight",
        "encoder.blocks.3.attn.query.weight",
    ],
)
def test_whisper_names_from_transformers_and_openai(stored):
    assert whisper_name(stored) == "layers.3.self_attn.q_proj.weight"


def test_every_openai_encoder_name_lands_in_the_transformers_encoder():
    import torch
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(d_model=64, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=128)
    with torch.device("meta"):
        expected = set(WhisperEncoder(config).state_dict())
    leaves = ["attn.query", "attn.value", "attn.out", "attn_ln", "mlp.0", "mlp.2", "mlp_ln"]
    openai = [f"encoder.blocks.0.{leaf}.{kind}" for leaf in leaves for kind in ("weight", "bias")]
    openai += ["encoder.blocks.0.attn.key.weight", "encoder.positional_embedding"]
    openai += [f"encoder.{leaf}.{kind}" for leaf in ("conv1", "conv2", "ln_post") for kind in ("weight", "bias")]
    assert {whisper_name(name) for name in openai} == expected


def test_the_whisper_decoder_is_not_wanted():
    for name in ("model.decoder.layers.0.fc1.weight", "proj_out.weight", "decoder.token_embedding.weight"):
        assert whisper_name(name) is None


def test_lora_files_are_recognised_by_their_names():
    for leaf in ("lora_down.weight", "lora_up.weight", "lora_A.weight", "diff", "diff_b"):
        with pytest.raises(ValueError, match=r"lora\.safetensors is a LoRA"):
            refuse_lora(["blocks.0.modulation", f"diffusion_model.blocks.0.ffn.0.{leaf}"], "lora.safetensors")
    refuse_lora(["blocks.0.ffn.0.weight", "blocks.0.modulation"], "full.safetensors")
