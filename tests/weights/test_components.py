import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from humo_rt.config import PRESETS
from humo_rt.weights import components as loading
from humo_rt.weights import hub, resolve
from humo_rt.weights.components import load_components
from humo_rt.weights.config_file import write_config
from humo_rt.weights.save import save_published
from tests.weights.tiny_model import tiny_config, tiny_weights, write_comfy, write_own, write_published

FLOAT32 = {"device": "cpu", "dtype": torch.float32}


@pytest.fixture(autouse=True)
def tiny_presets(monkeypatch):
    for name in ("humo-1.7b", "humo-17b"):
        monkeypatch.setitem(PRESETS, name, tiny_config(name))
    monkeypatch.setitem(PRESETS, "nano", tiny_config("nano", mask_predictor=True))


def assert_loaded(components, weights, dit_dtype=torch.float32):
    loaded = {
        "dit": components.dit.state_dict(),
        "vae": components.vae.autoencoder.state_dict(),
        "text_encoder": components.text_encoder.state_dict(),
        "audio_encoder": components.audio_encoder.state_dict(),
    }
    loaded["text_encoder"].pop("encoder.embed_tokens.weight")
    for part, tensors in weights.items():
        assert loaded[part].keys() == tensors.keys()
        for name, tensor in tensors.items():
            expected = tensor.to(dit_dtype).float() if part == "dit" else tensor
            assert torch.equal(loaded[part][name], expected), name
    assert not any(p.requires_grad or p.is_meta for p in components.dit.parameters())
    assert components.text_encoder.shared.weight is components.text_encoder.encoder.embed_tokens.weight
    assert components.tokenizer("hi").input_ids[-1] == components.tokenizer.eos_token_id


@pytest.mark.parametrize(("name", "layout"), [("humo-17b", "HuMo-17B"), ("humo-1.7b", "HuMo-1.7B")])
def test_the_published_layout_loads_bit_identical(tmp_path, name, layout):
    weights = tiny_weights(tiny_config(name))
    write_published(tmp_path, layout, weights)
    for arguments in ((tmp_path,), (tmp_path / "HuMo" / layout,)):
        components = load_components(*arguments, **FLOAT32)
        assert components.config.name == name
        assert components.weights == str(arguments[0])
        assert_loaded(components, weights)
    components = load_components(name, weights=tmp_path, **FLOAT32)
    assert components.weights == str(tmp_path)
    assert [tuple(latents.shape) for latents in components.zero_vae] == [(16, 3, 8, 8), (16, 5, 4, 6)]


def test_comfyui_files_load_by_folder_and_by_file(tmp_path):
    weights = tiny_weights(tiny_config("humo-1.7b"))
    dit = write_comfy(tmp_path, weights)
    assert_loaded(load_components(tmp_path, **FLOAT32), weights, torch.float16)
    assert_loaded(load_components(dit, **FLOAT32), weights, torch.float16)


def test_an_own_folder_follows_its_config_file(tmp_path):
    config = tiny_config("nano", mask_predictor=True)
    weights = tiny_weights(config)
    write_own(tmp_path, weights)
    write_config(config, tmp_path)
    components = load_components(tmp_path, **FLOAT32)
    assert components.config == config
    assert components.dit.mask_predictor is not None
    assert_loaded(components, weights)


def test_a_mask_predictor_is_built_exactly_when_the_file_carries_one(tmp_path):
    weights = tiny_weights(tiny_config("humo-1.7b", mask_predictor=True))
    write_published(tmp_path, "HuMo-1.7B", weights)
    assert load_components("humo-1.7b", weights=tmp_path, **FLOAT32).dit.mask_predictor is not None
    head = {name: tensor for name, tensor in weights["dit"].items() if name.startswith("mask_predictor.")}
    bare = {name: tensor for name, tensor in weights["dit"].items() if name not in head}
    save_published(bare, tmp_path / "HuMo", "HuMo-1.7B")
    assert load_components("humo-1.7b", weights=tmp_path, **FLOAT32).dit.mask_predictor is None
    save_published(head, tmp_path / "mask_predictor.safetensors", "file")
    assert_loaded(load_components("humo-1.7b", weights=tmp_path, **FLOAT32), weights)


def test_bf16_keeps_what_is_computed_in_float32(tmp_path):
    write_published(tmp_path, "HuMo-1.7B", tiny_weights(tiny_config("humo-1.7b")))
    components = load_components(tmp_path, device="cpu", dtype=torch.bfloat16)
    block = components.dit.blocks[0]
    assert block.ffn[0].weight.dtype == block.ffn[0].bias.dtype == torch.bfloat16
    assert block.modulation.dtype == block.norm3.weight.dtype == components.dit.head.head.weight.dtype == torch.float32
    assert components.text_encoder.shared.weight.dtype == torch.bfloat16
    assert components.audio_encoder.conv1.weight.dtype == torch.float32


def test_a_folder_with_both_models_asks_which(tmp_path):
    weights = tiny_weights(tiny_config("humo-17b"))
    write_published(tmp_path, "HuMo-17B", weights)
    save_published({}, tmp_path / "HuMo", "HuMo-1.7B")
    with pytest.raises(ValueError, match="holds humo-17b and humo-1.7b: name one as the preset"):
        load_components(tmp_path, **FLOAT32)
    assert load_components("humo-17b", weights=tmp_path, **FLOAT32).config.name == "humo-17b"


def test_weights_of_another_model_are_recognised(tmp_path):
    write_published(tmp_path, "HuMo-1.7B", tiny_weights(tiny_config("humo-17b")))
    with pytest.raises(ValueError, match=r"ema\.pth is not humo-1\.7b but a model of width 48.*use preset humo-17b"):
        load_components("humo-1.7b", weights=tmp_path, **FLOAT32)


def test_a_folder_without_the_vae(tmp_path):
    write_published(tmp_path, "HuMo-17B", tiny_weights(tiny_config("humo-17b")))
    (tmp_path / "Wan2.1-T2V-1.3B" / "Wan2.1_VAE.pth").unlink()
    with pytest.raises(ValueError, match=r"lacks the vae \(Wan2\.1_VAE\.pth or .*hf download Wan-AI"):
        load_components(tmp_path, **FLOAT32)


def test_a_corrupt_and_a_foreign_vae_are_named(tmp_path):
    write_published(tmp_path, "HuMo-17B", tiny_weights(tiny_config("humo-17b")))
    vae = tmp_path / "Wan2.1-T2V-1.3B" / "Wan2.1_VAE.pth"
    vae.write_bytes(vae.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"Wan2\.1_VAE\.pth: cut short or damaged"):
        load_components(tmp_path, **FLOAT32)
    torch.save({"strange.weight": torch.zeros(3)}, vae)
    with pytest.raises(ValueError, match=r"Wan2\.1_VAE\.pth does not fit the model: 194 tensors missing"):
        load_components(tmp_path, **FLOAT32)


def test_lora_and_gguf_are_named_as_not_supported_yet(tmp_path):
    lora = tmp_path / "lora.safetensors"
    save_file({"diffusion_model.blocks.0.self_attn.q.lora_down.weight": torch.zeros(4, 48)}, lora)
    with pytest.raises(ValueError, match=r"lora\.safetensors is a LoRA .* not supported yet"):
        load_components(lora, **FLOAT32)
    gguf = tmp_path / "humo-Q4.gguf"
    gguf.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ValueError, match="GGUF .* not supported yet"):
        load_components(gguf, **FLOAT32)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("humo-18b",), "'humo-18b' is neither a preset"),
        (("humo-18b", "random"), "unknown preset 'humo-18b'"),
        (("no/such/folder",), "neither a preset .* nor an existing file or folder"),
        (("nano", "./absent"), "'./absent' is neither"),
        (("bytedance-research/HuMo",), "holds two models"),
    ],
)
def test_names_that_lead_nowhere(arguments, said):
    with pytest.raises(ValueError, match=said):
        load_components(arguments[0], weights=arguments[1] if len(arguments) > 1 else None, **FLOAT32)


def test_an_empty_folder_says_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match=r"holds no HuMo weights: expected HuMo-17B"):
        load_components(tmp_path, **FLOAT32)


def test_published_presets_are_downloaded(tmp_path, monkeypatch):
    weights = tiny_weights(tiny_config("humo-1.7b"))
    write_published(tmp_path, "HuMo-1.7B", weights)
    folders = {
        "bytedance-research/HuMo": "HuMo",
        "Wan-AI/Wan2.1-T2V-1.3B": "Wan2.1-T2V-1.3B",
        "openai/whisper-large-v3": "whisper-large-v3",
    }
    asked = {}

    def snapshot_download(repository, allow_patterns):
        asked[repository] = allow_patterns
        return str(tmp_path / folders[repository])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert_loaded(load_components("humo-1.7b", **FLOAT32), weights)
    assert asked.keys() == folders.keys()
    assert "HuMo-1.7B/*" in asked["bytedance-research/HuMo"]
    assert "HuMo-17B/*" not in asked["bytedance-research/HuMo"]
    asked.clear()
    assert_loaded(load_components("humo-1.7b", weights="bytedance-research/HuMo", **FLOAT32), weights)
    assert asked.keys() == folders.keys()


def test_a_folder_named_like_the_repository_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("downloaded what is here"))
    weights = tiny_weights(tiny_config("humo-1.7b"))
    (tmp_path / "bytedance-research").mkdir()
    write_published(tmp_path / "bytedance-research", "HuMo-1.7B", weights)
    assert resolve.configuration("humo-1.7b", "bytedance-research/HuMo").name == "humo-1.7b"


def test_a_download_without_network_says_what_to_do(monkeypatch):
    def snapshot_download(repository, allow_patterns):
        raise FileNotFoundError("cannot reach the hub\nsecond line")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(RuntimeError, match="misspelt/folder is no folder here"):
        load_components("misspelt/folder", **FLOAT32)
    with pytest.raises(
        RuntimeError, match=r"bytedance-research/HuMo .*cannot be downloaded.*connect to the internet"
    ) as error:
        load_components("humo-17b", **FLOAT32)
    assert "\n" not in str(error.value)
    assert not hub.looks_like_repository("./folder/name")


def test_random_weights_depend_on_the_seed_alone():
    first = load_components("nano", weights="random", seed=3, **FLOAT32)
    assert first.weights == "random"
    again = load_components("nano", weights="random", seed=3, **FLOAT32)
    other = load_components("nano", weights="random", seed=4, **FLOAT32)
    weight = "blocks.1.ffn.0.weight"
    assert torch.equal(first.dit.state_dict()[weight], again.dit.state_dict()[weight])
    assert not torch.equal(first.dit.state_dict()[weight], other.dit.state_dict()[weight])
    assert not any(torch.isnan(p).any() for p in first.vae.parameters())


def test_too_little_memory_is_said_before_anything_is_read(tmp_path, monkeypatch):
    write_published(tmp_path, "HuMo-17B", tiny_weights(tiny_config("humo-17b")))
    monkeypatch.setattr(loading, "available_memory", lambda device: 1000)
    monkeypatch.setattr(loading, "load_into", lambda *_, **__: pytest.fail("read the weights"))
    with pytest.raises(RuntimeError, match=r"too little memory: loading humo-17b in float32 on cpu needs .* GiB"):
        load_components(tmp_path, **FLOAT32)


def test_encoders_kept_elsewhere_need_room_there_and_for_one_visitor(monkeypatch):
    sizes = {"dit": 40, "vae": 1, "text_encoder": 11, "audio_encoder": 3}
    gpu, host = torch.device("cuda"), torch.device("cpu")
    devices = {"dit": gpu, "vae": gpu, "text_encoder": host, "audio_encoder": host}
    free = {gpu: 52, host: 14}
    monkeypatch.setattr(loading, "available_memory", free.get)
    loading._require_room(sizes, devices, gpu, "it")
    free[gpu] = 51
    with pytest.raises(RuntimeError, match="loading it on cuda"):
        loading._require_room(sizes, devices, gpu, "it")
    free |= {gpu: 52, host: 13}
    with pytest.raises(RuntimeError, match="keeping the encoders of it on cpu"):
        loading._require_room(sizes, devices, gpu, "it")


def test_nano_without_shipped_weights_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(resolve, "NANO_ASSETS", tmp_path)
    with pytest.raises(ValueError, match="no weights in this installation"):
        load_components("nano", **FLOAT32)


def test_a_damaged_config_file_is_named(tmp_path):
    write_own(tmp_path, tiny_weights(tiny_config("nano", mask_predictor=True)))
    path = write_config(PRESETS["nano"], tmp_path)
    values = json.loads(path.read_text())
    values["dit"]["heads"] = 3
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"config\.json: not a model configuration \(unknown names in dit: heads\)"):
        load_components(tmp_path, **FLOAT32)


def test_half_precision_files_of_the_own_layout(tmp_path):
    config = tiny_config("nano", mask_predictor=True)
    weights = {part: {n: t.half() for n, t in tensors.items()} for part, tensors in tiny_weights(config).items()}
    write_own(tmp_path, weights)
    components = load_components(tmp_path, **FLOAT32)
    stored = load_file(tmp_path / "vae.safetensors")
    name = "decoder.conv_in.weight"
    assert torch.equal(components.vae.autoencoder.state_dict()[name], stored[name].float())
