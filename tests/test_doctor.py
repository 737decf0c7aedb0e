import json

import pytest
from typer.testing import CliRunner

import humo_rt
from humo_rt import cli, doctor, machine
from humo_rt.config import PRESETS
from humo_rt.tensorrt.targets import engine_support
from humo_rt.weights.config_file import write_config
from tests.weights.tiny_model import tiny_config, tiny_weights, write_own, write_published


@pytest.fixture(autouse=True)
def tiny_presets(monkeypatch):
    for name in PRESETS:
        monkeypatch.setitem(PRESETS, name, tiny_config(name, mask_predictor=name == "nano"))


@pytest.fixture
def folder(tmp_path):
    write_published(tmp_path, "HuMo-17B", tiny_weights(tiny_config("humo-17b")))
    return tmp_path


def as_json(*arguments):
    result = CliRunner().invoke(cli.app, ["doctor", *map(str, arguments), "--device", "cpu", "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_the_machine_alone(tmp_path):
    code, findings = as_json()
    machine = findings["machine"]
    assert code == 0
    assert findings["ok"]
    assert machine["version"] == humo_rt.__version__
    assert machine["cores"] > 0
    assert machine["free_memory"] > 0
    assert machine["packages"]["torch"]
    assert machine["codecs"] == {"libx264": True, "aac": True}
    assert [model["name"] for model in findings["models"]] == list(PRESETS)
    assert {"tensorrt-rtx", "tensorrt", "onnx", "onnxscript", "onnxruntime"} <= machine["packages"].keys()
    assert machine["engines"] == engine_support()


@pytest.mark.parametrize(
    ("installed", "listed"),
    [
        ((), {"onnxruntime": None}),
        (("onnxruntime",), {"onnxruntime": "1"}),
        (("onnxruntime-gpu",), {"onnxruntime-gpu": "1"}),
        (("onnxruntime", "onnxruntime-gpu"), {"onnxruntime": "1", "onnxruntime-gpu": "1"}),
    ],
)
def test_either_distribution_of_onnxruntime_will_do(monkeypatch, installed, listed):
    monkeypatch.setattr(machine, "_version", lambda name: "1" if name in installed else None)
    assert {name: found for name, found in machine._packages().items() if "onnxruntime" in name} == listed


def test_a_complete_folder(folder):
    code, findings = as_json(folder)
    (model,) = findings["models"]
    assert code == 0
    assert findings["problems"] == []
    assert model["name"] == "humo-17b"
    parts = {part["name"]: part for part in model["parts"]}
    assert parts["dit"]["file"].endswith("humo.safetensors.index.json")
    assert parts["dit"]["dtypes"] == ["float32"]
    assert parts["dit"]["bytes"] == model["memory"]["networks"]["dit"]
    assert len(model["zero_vae"]) == 2


def test_missing_parts_are_listed_and_the_exit_code_says_so(folder):
    (folder / "Wan2.1-T2V-1.3B" / "Wan2.1_VAE.pth").unlink()
    (folder / "whisper-large-v3" / "model.safetensors").unlink()
    code, findings = as_json(folder)
    assert code == 1
    assert [problem.split("(")[0].split(" lacks ")[1] for problem in findings["problems"]] == [
        "the vae ",
        "the audio encoder ",
    ]
    assert all("hf download" in problem for problem in findings["problems"])


def test_a_damaged_file_and_a_foreign_one_are_found_without_loading(folder):
    wan = folder / "Wan2.1-T2V-1.3B"
    whole = (wan / "Wan2.1_VAE.pth").read_bytes()
    (wan / "Wan2.1_VAE.pth").write_bytes(whole[: len(whole) // 2])
    (wan / "models_t5_umt5-xxl-enc-bf16.pth").write_bytes(whole)
    code, findings = as_json(folder)
    assert code == 1
    assert "Wan2.1_VAE.pth: cut short or damaged" in findings["problems"][0]
    assert "models_t5_umt5-xxl-enc-bf16.pth does not fit the model" in findings["problems"][1]


def test_an_own_folder_with_its_configuration(tmp_path):
    config = tiny_config("nano", mask_predictor=True)
    write_own(tmp_path, tiny_weights(config))
    write_config(config, tmp_path)
    code, findings = as_json(tmp_path)
    assert code == 0
    assert findings["models"][0]["name"] == "nano"


def test_a_folder_without_weights_and_a_path_that_does_not_exist(tmp_path):
    code, findings = as_json(tmp_path)
    assert code == 1
    assert "holds no HuMo transformer" in findings["problems"][0]
    code, findings = as_json(tmp_path, "--preset", "humo-1.7b")
    assert code == 1
    assert len(findings["problems"]) == 5
    result = CliRunner().invoke(cli.app, ["doctor", str(tmp_path / "absent")])
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


def test_memory_is_estimated_for_the_size_asked(folder, monkeypatch):
    small = as_json(folder)[1]["models"][0]["memory"]
    large = as_json(folder, "--height", 720, "--width", 1280, "--num-frames", 97)[1]["models"][0]["memory"]
    assert large["networks"] == small["networks"]
    assert large["activations"] > 50 * small["activations"]
    monkeypatch.setattr(doctor, "available_memory", lambda device: small["total"])
    assert as_json(folder)[0] == 0
    code, findings = as_json(folder, "--height", 720)
    assert code == 1
    assert "too little memory" in findings["problems"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--height", "479"), "height 479 is not a multiple of 16: use 464 or 480"),
        (("--num-frames", "96"), "num_frames 96 is not 4n+1: use 93 or 97"),
        (("--device", "gpu"), "unknown device 'gpu': use cuda, cuda:1 or cpu"),
        (("--preset", "humo-18b"), "unknown preset 'humo-18b'"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, message):
    result = CliRunner().invoke(cli.app, ["doctor", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


def test_tables_for_people(folder):
    result = CliRunner().invoke(cli.app, ["doctor", str(folder), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    for word in ("Machine", "humo-17b: files", "text encoder", "Nothing is missing."):
        assert word in result.stdout
    assert ["humo-rt", humo_rt.__version__] in [line.split() for line in result.stdout.splitlines()]
