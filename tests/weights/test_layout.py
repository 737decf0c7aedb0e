from pathlib import Path

import pytest

from humo_rt.weights.layout import PARTS, find_files, models_in, survey

RELEASE = {
    "dit": "HuMo/HuMo-17B/humo.safetensors.index.json",
    "vae": "Wan2.1-T2V-1.3B/Wan2.1_VAE.pth",
    "text_encoder": "Wan2.1-T2V-1.3B/models_t5_umt5-xxl-enc-bf16.pth",
    "tokenizer": "Wan2.1-T2V-1.3B/google/umt5-xxl",
    "audio_encoder": "whisper-large-v3/model.safetensors",
}


def place(root: Path, *files: str) -> Path:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("umt5-xxl") else path.touch()
    return root


def test_the_folder_the_release_describes_is_complete(tmp_path):
    place(tmp_path, *RELEASE.values(), "HuMo/zero_vae_129frame.pt", "HuMo/zero_vae_720p_161frame.pt")
    files = find_files(tmp_path, "humo-17b")
    assert {part: str(getattr(files, part).relative_to(tmp_path)) for part in PARTS} == RELEASE
    assert [path.name for path in files.zero_vae] == ["zero_vae_129frame.pt", "zero_vae_720p_161frame.pt"]


def test_pointing_at_one_models_folder_finds_the_rest_around_it(tmp_path):
    place(tmp_path, *RELEASE.values(), "HuMo/HuMo-1.7B/ema.pth")
    files = find_files(tmp_path / "HuMo" / "HuMo-1.7B", "humo-1.7b")
    assert files.dit == tmp_path / "HuMo/HuMo-1.7B/ema.pth"
    assert files.vae == tmp_path / RELEASE["vae"]


def test_wan_files_at_the_top_level_are_found_too(tmp_path):
    top = {part: name.removeprefix("Wan2.1-T2V-1.3B/").removeprefix("HuMo/") for part, name in RELEASE.items()}
    place(tmp_path, *top.values())
    assert find_files(tmp_path, "humo-17b").tokenizer == tmp_path / "google/umt5-xxl"


def test_comfyui_folders(tmp_path):
    place(
        tmp_path,
        "diffusion_models/humo_17B_fp8_e4m3fn.safetensors",
        "diffusion_models/humo_1.7B_fp16.safetensors",
        "vae/wan_2.1_vae.safetensors",
        "text_encoders/umt5_xxl_fp16.safetensors",
        "audio_encoders/whisper_large_v3_fp16.safetensors",
        "google/umt5-xxl",
    )
    assert models_in(tmp_path) == ["humo-17b", "humo-1.7b"]
    assert find_files(tmp_path, "humo-17b").dit.name == "humo_17B_fp8_e4m3fn.safetensors"
    assert find_files(tmp_path, "humo-1.7b").dit.name == "humo_1.7B_fp16.safetensors"
    one_file = tmp_path / "diffusion_models/humo_1.7B_fp16.safetensors"
    assert find_files(one_file, "humo-1.7b").vae == tmp_path / "vae/wan_2.1_vae.safetensors"


def test_parts_spread_over_several_folders(tmp_path):
    for part, name in RELEASE.items():
        place(tmp_path / part, Path(name).name if part == "audio_encoder" else name)
    files = find_files([tmp_path / part for part in PARTS], "humo-17b")
    assert files.audio_encoder == tmp_path / "audio_encoder/model.safetensors"


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named_with_its_file_and_its_download(tmp_path, part):
    place(tmp_path, *(name for other, name in RELEASE.items() if other != part))
    with pytest.raises(ValueError) as error:
        find_files(tmp_path, "humo-17b")
    message = str(error.value)
    assert part.replace("_", " ") in message
    assert str(tmp_path) in message
    assert RELEASE[part] in message
    assert "hf download" in message
    assert "\n" not in message
    assert set(survey(tmp_path, "humo-17b")) == set(PARTS) - {part}


def test_an_own_folder_needs_its_own_files(tmp_path):
    place(tmp_path, "dit.safetensors", "text_encoder.safetensors", "tokenizer.json", "audio_encoder.safetensors")
    assert models_in(tmp_path) == ["own"]
    with pytest.raises(ValueError, match=r"lacks the vae \(vae\.safetensors\)"):
        find_files(tmp_path, "nano")
