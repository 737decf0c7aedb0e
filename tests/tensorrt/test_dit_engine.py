"""A whole generation through an ONNX session in place of the DiT, from Python and from the command line."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from humo_rt.cli import app
from humo_rt.config import HUMO_1_7B, PRESETS
from humo_rt.pipeline import Pipeline
from humo_rt.runtime.execution import Execution
from humo_rt.tensorrt import open_dit
from humo_rt.tensorrt.fingerprint import Fingerprint
from humo_rt.tensorrt.session import OnnxDiT
from humo_rt.tensorrt.source import Source, load_dit
from humo_rt.tensorrt.verify_plan import plan_of
from humo_rt.weights.components import load_components
from tests.tensorrt.conftest import with_other_weights
from tests.tiny import tiny_components, tiny_config

REQUEST = {
    "prompt": "A woman is talking.",
    "image": np.full((48, 40, 3), 150, dtype=np.uint8),
    "audio": (np.sin(np.arange(16_000) / 20).astype(np.float32), 16_000),
    "num_frames": 9,
    "num_inference_steps": 4,
    "height": 64,
    "width": 48,
    "seed": 5,
    "progress": False,
}


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def recorded(pipeline, **changes):
    """The result, and what control flow the DiT saw: shapes and timesteps of every call, and every step."""
    calls, steps = [], []
    dit = pipeline.denoiser

    class Recording:
        config = dit.config
        project_context = staticmethod(dit.project_context)

        def __call__(self, x, timestep, **arguments):
            calls.append((tuple(x.shape), timestep.tolist(), sorted(arguments)))
            return dit(x, timestep, **arguments)

    def watch(pipeline, step, timestep, tensors):
        steps.append((step, float(timestep)))
        return {}

    pipeline.denoiser = Recording()
    try:
        result = pipeline.generate(**REQUEST | {"callback_on_step_end": watch} | changes)
    finally:
        pipeline.denoiser = dit
    return result, calls, steps


@pytest.fixture(scope="module")
def pipelines(nano_float32):
    model = {"weights": "random", "device": "cpu"}
    return (
        Pipeline.from_pretrained("nano", **model),
        Pipeline.from_pretrained("nano", **model, dit_engine=nano_float32.exported.path),
    )


@pytest.mark.parametrize("changes", [{}, {"branch_batch_size": 1}, {"image": None, "audio": None}], ids=str)
def test_generate_makes_the_same_calls_and_the_same_video(pipelines, changes):
    (expected, calls, steps), (found, found_calls, found_steps) = (recorded(p, **changes) for p in pipelines)
    assert found_calls == calls
    assert len(calls) >= len(steps)
    assert found_steps == steps
    assert len(steps) == REQUEST["num_inference_steps"]
    assert psnr(found.frames, expected.frames) >= 40


@pytest.mark.parametrize("masks", [(0, 0, 24, 32), "predictor"], ids=["a box", "predictor"])
def test_face_masks(pipelines, masks):
    expected, found = (p.generate(**REQUEST, face_masks=masks).frames for p in pipelines)
    assert psnr(found, expected) >= 40


def test_several_speakers_are_refused_before_any_work(pipelines):
    two = {"audio": [REQUEST["audio"]] * 2, "face_masks": [(0, 0, 16, 16), (32, 0, 48, 16)]}
    with pytest.raises(ValueError, match="an exported DiT takes one speaker, not 2: give one audio"):
        pipelines[1].generate(**REQUEST | two)


def psnr(found, expected):
    error = np.mean((found.astype(np.float64) - expected.astype(np.float64)) ** 2)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def test_settings_name_the_engine_and_unused_weights_are_dropped(pipelines, nano_float32):
    plain, engine = pipelines
    assert isinstance(engine.dit, OnnxDiT)
    assert all(block.self_attn is None and block.ffn is None for block in engine.dit._dit.blocks)
    found, expected = (p.generate(**REQUEST | {"num_inference_steps": 1}).settings for p in (engine, plain))
    assert expected["attention_backend"] == "sdpa"
    of_torch = {"attention_backend": None, "matmul_backend": None}
    assert found == expected | {"dit_engine": str(nano_float32.exported.path)} | of_torch


def test_an_engine_of_another_model_is_refused(nano_float32):
    with pytest.raises(ValueError, match=r"was exported from another model \(.*dim 256 instead of 32"):
        Pipeline(tiny_components(tiny_config(HUMO_1_7B)), Execution(dit_engine=nano_float32.exported.path))


def test_a_graph_of_other_weights_is_refused(nano_float32, tmp_path, monkeypatch):
    """The published nano against an export of random weights: keys and values of one, blocks of the other."""
    monkeypatch.chdir(tmp_path)
    file = nano_float32.exported.path
    result = run("generate", "--prompt", "x", "--device", "cpu", "--dit-engine", file)
    assert result.exit_code == 2, result.output
    assert (
        "exported from the weights of --preset nano --weights random, but those of --preset nano are" in result.stderr
    )
    again = f"humo-rt export --preset nano --precision float32 --face-mask --mask-predictor --output {file}"
    assert again in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []
    assert run("verify-engine", file, "--preset", "nano").exit_code == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_graph_serves_pipelines_of_other_precisions(nano_float32, dtype):
    pipeline = Pipeline.from_pretrained(
        "nano", weights="random", device="cpu", dtype=dtype, dit_engine=nano_float32.exported.path
    )
    assert isinstance(pipeline.denoiser, OnnxDiT)


@pytest.mark.gpu
def test_random_weights_of_an_export_are_found_again_on_a_gpu(nano_float32):
    file = nano_float32.exported.path
    pipeline = Pipeline.from_pretrained("nano", weights="random", device="cuda", dtype=torch.float32)
    with pytest.raises(ValueError, match="--weights random, but others of that name are loaded"):
        open_dit(file, pipeline.dit, loaded_from=Source(model="nano", weights="random"))
    dit = load_dit(Source(model="nano", weights="random"), dtype=torch.float32, device=torch.device("cuda"))
    assert Fingerprint.of(dit) == Fingerprint.of(nano_float32.dit)
    components = load_components("nano", weights="random", device="cuda", dtype=torch.float32, exported_dit=True)
    assert Fingerprint.of(components.dit) == Fingerprint.of(nano_float32.dit)


def test_verify_engine_agrees(nano_float32):
    result = run("verify-engine", nano_float32.exported.path)
    assert result.exit_code == 0, result.output
    assert "ok" in result.stdout
    assert "agrees with PyTorch" in result.stdout
    assert "ms a forward, PyTorch" in result.stdout


def test_verify_engine_finds_other_weights(nano_float32, tmp_path):
    result = run("verify-engine", with_other_weights(nano_float32.exported.path, tmp_path / "other.onnx"))
    assert result.exit_code == 1
    assert "TOO LARGE" in result.stdout
    assert "other.onnx and PyTorch disagree" in result.stderr


def test_generate_from_the_command_line(nano_float32, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(
        "generate", "--prompt", "x", "--weights", "random", "--steps", 1, "--num-frames", 5,
        "--height", 32, "--width", 32, "--device", "cpu", "--dit-engine", nano_float32.exported.path,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out.mp4").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "-o", "dit.pt", "--weights", "random"], "must end in .onnx"),
        (["export", "-o", "absent/dit.onnx", "--weights", "random"], "does not exist"),
        (
            ["export", "-o", "dit.onnx", "--precision", "int8"],
            "unknown precision 'int8': choose one of float32, float16, bfloat16, fp8",
        ),
        (["export", "-o", "dit.onnx", "--preset", "humo-2b"], "humo-2b"),
        (["verify-engine", "absent.onnx"], "does not exist"),
        (["verify-engine", "absent.engine"], "absent.engine"),
        (["verify-engine", "dit.plan"], "neither .onnx nor .engine"),
        (["generate", "--prompt", "x", "--weights", "random", "--dit-engine", "absent.onnx"], "does not exist"),
        (
            ["generate", "--prompt", "x", "--engine-onnx", "dit.onnx"],
            "--engine-onnx dit.onnx is for an engine",
        ),
        (["generate", "--prompt", "x", "--weight-budget", 4], "--weight-budget 4.0 is for an engine: give one"),
        (
            ["generate", "--prompt", "x", "--dit-engine", "dit.onnx", "--weight-budget", 4],
            "is for engines: leave it out",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_export_from_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "nano", tiny_config(HUMO_1_7B, num_layers=1, mask_predictor=False))
    result = run("export", "--weights", "random", "--precision", "float16", "--face-mask", "-o", "dit.onnx")
    assert result.exit_code == 0, result.output
    assert "dit.onnx: " in result.stdout
    assert "in float16" in result.stdout
    plan = plan_of(tmp_path / "dit.onnx", None)
    assert plan.spec.dtype == torch.float16
    assert plan.spec.face_mask
    assert plan.source == Source(model="nano", weights="random")
