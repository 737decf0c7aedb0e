"""The command line, with a real pipeline on networks of a few thousand parameters."""

import json
import os
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import humo_rt
import humo_rt.media.writer
import humo_rt.weights.components
from humo_rt import cli, commands
from humo_rt.config import PRESETS
from humo_rt.media import read_video
from tests.weights.tiny_model import tiny_config, tiny_weights, write_own, write_published

TWO = ["--audio", "speech.wav", "--audio", "speech.wav"]
QUICK = ["--weights", "random", "--steps", "2", "--num-frames", "5", "--seed", "3", "--device", "cpu"]


@pytest.fixture(autouse=True)
def tiny_presets(monkeypatch):
    for name in PRESETS:
        monkeypatch.setitem(PRESETS, name, tiny_config(name, mask_predictor=name == "nano"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a face and speech; everything written is written here."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 30), (200, 120, 90)).save("face.png")
    write_wav(tmp_path / "speech.wav", (np.sin(np.arange(16_000) / 20) * 8000).astype(np.int16))
    return tmp_path


def write_wav(path, samples):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, len(samples), "NONE", ""))
        file.writeframes(samples.tobytes())


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def refused(*arguments):
    """The one line on standard error of a command that must end with exit code 2."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestGenerate:
    def test_a_video_and_its_contact_sheet(self, folder):
        result = run(
            "generate", "--prompt", "A man speaks.", "--image", "face.png", "--image", "face.png",
            "--audio", "speech.wav", "-o", "out.mp4", "--contact-sheet", "sheet.png", *QUICK,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert "out.mp4: 5 frames of 48x32 at 25 fps, seed 3" in result.stdout
        assert result.stderr == ""
        assert len(read_video("out.mp4")[0]) == 5
        assert names(folder) == ["face.png", "out.mp4", "sheet.png", "speech.wav"]

    def test_a_trace_is_printed(self, folder):
        result = run("generate", "--prompt", "A man speaks.", "--trace", *QUICK)
        assert result.exit_code == 0, result.output
        shown = dict(line.rsplit("  ", 1) for line in result.stdout.splitlines()[1:])
        names = [name.strip() for name in shown]
        assert names[:2] == ["text", "image"]
        assert names[-6:] == ["total", "step p50", "step p90", "branch", "branches run", "peak memory"]
        assert int(shown.pop(next(name for name in shown if name.strip() == "branches run"))) == 2 * 2
        assert all(value.strip().endswith((" s", " GiB")) for value in shown.values())

    def test_every_option_reaches_the_pipeline(self, folder, monkeypatch):
        calls = {}

        class Recorder:
            def generate(self, **options):
                calls.update(options)
                raise RuntimeError("seen enough")

        def load(**model):
            calls["model"] = model
            return Recorder()

        monkeypatch.setattr(commands, "load_pipeline", load)
        line = refused(
            "generate", "--prompt", "x", "--preset", "humo-17b", "--weights", "random", "--height", 64, "--width", 32,
            "--num-frames", 9, "--steps", 7, "--seed", 5, "--guidance", "humo-17b", "--guidance-scale", 2,
            "--audio-guidance-scale", 3, "--guidance-switch", 900, "--flow-shift", 4, "--negative-prompt", "fog",
            "--sampler", "euler", "--branch-batch-size", 1, "--guidance-reuse", "0=2",
            "--device", "cpu", "--dtype", "float32", "-o", "v.mp4",
        )  # fmt: skip
        assert line == "error: seen enough"
        assert calls["model"] == {"preset": "humo-17b", "weights": "random", "device": "cpu", "dtype": "float32"}
        expected = {
            "height": 64, "width": 32, "num_frames": 9, "num_inference_steps": 7, "seed": 5, "guidance": "humo-17b",
            "guidance_scale": 2.0, "audio_guidance_scale": 3.0, "guidance_switch_timestep": 900.0, "flow_shift": 4.0,
            "sampler": "euler", "branch_batch_size": 1, "guidance_reuse": "0=2", "negative_prompt": "fog",
            "output": Path("v.mp4"), "prompt": "x", "image": None, "audio": None,
        }  # fmt: skip
        assert {name: calls[name] for name in expected} == expected

    @pytest.mark.parametrize(
        ("arguments", "sounds", "masks"),
        [
            (["--audio", "a.wav"], "a.wav", None),
            (["--audio", "a.wav", "--face-mask", "0,0,16,32"], "a.wav", [(0, 0, 16, 32)]),
            (["--audio", "a.wav", "--face-mask", "0,0,16,32", "--face-mask", "32,0,48,32"], "a.wav", "both"),
            (["--audio", "a.wav", "--face-mask", "m.png"], "a.wav", "m.png"),
            (["--audio", "a.wav", "--face-mask", "0:m.png"], "a.wav", "m.png"),
            (["--audio", "a.wav", "--face-mask", "0:predictor"], "a.wav", "predictor"),
            (["--audio", "a.wav", "--face-mask", "detect:v.mp4"], "a.wav", "detect:v.mp4"),
            (["--audio", "a.wav", "--face-mask", "predictor"], "a.wav", "predictor"),
            (
                ["--audio", "a.wav", "--audio", "b.wav", "--face-mask", "1:m.png", "--face-mask", "0:0,0,16,32"],
                ["a.wav", "b.wav"],
                [[(0, 0, 16, 32)], "m.png"],
            ),
            (
                ["--audio", "a.wav", "--audio", "b.wav", "--face-mask", "0:detect:v.mp4", "--face-mask", "1:0,0,9,9"],
                ["a.wav", "b.wav"],
                ["detect:v.mp4", [(0, 0, 9, 9)]],
            ),
            (["--audio", "a.wav", "--audio", "b.wav", "--face-mask", "0:m.png"], ["a.wav", "b.wav"], ["m.png", None]),
        ],
    )
    def test_masks_find_their_speakers(self, monkeypatch, arguments, sounds, masks):
        asked = {}

        def seen(conditions, options, model, output, sheet):
            asked.update(conditions)

        monkeypatch.setattr(commands, "generate_one", seen)
        result = run("generate", "--prompt", "x", *arguments)
        assert result.exit_code == 0, result.output
        found = asked["audio"]
        assert ([str(path) for path in found] if isinstance(found, list) else str(found)) == sounds
        expected = [(0, 0, 16, 32), (32, 0, 48, 32)] if masks == "both" else masks
        assert asked.get("face_masks") == expected

    def test_two_speakers(self, folder):
        result = run(
            "generate", "--prompt", "Two people talk.", "--audio", "speech.wav", "--audio", "speech.wav",
            "--face-mask", "0:0,0,16,32", "--face-mask", "1:32,0,48,32", *QUICK,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert (folder / "out.mp4").is_file()

    def test_weights_alone_choose_the_model(self, folder):
        write_published(folder, "HuMo-1.7B", tiny_weights(tiny_config("humo-1.7b")))
        result = run("generate", "--prompt", "x", "--weights", folder, "--steps", 1, "--device", "cpu", "--seed", 0)
        assert result.exit_code == 0, result.output
        assert (folder / "out.mp4").exists()


class TestBadInput:
    """Each ends in one line and exit code 2, with nothing written."""

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--prompt", "  "], "prompt"),
            ([], "--prompt is missing"),
            (["--prompt", "x", "--image", "absent.png"], "absent.png"),
            (["--prompt", "x", "--audio", "absent.wav"], "absent.wav"),
            (["--prompt", "x", "--image", "text.png"], "text.png"),
            (["--prompt", "x", "--audio", "header.wav"], "header.wav"),
            (["--prompt", "x", "--audio", "cut.wav"], "cut.wav"),
            (["--prompt", "x", "--audio", "empty.wav"], "empty.wav"),
            (["--prompt", "x", "--height", "479"], "height 479 is not a multiple of 16: use 464 or 480"),
            (["--prompt", "x", "--num-frames", "96"], "num_frames 96 is not 4n+1: use 93 or 97"),
            (["--prompt", "x", "--preset", "huge"], "unknown preset 'huge'"),
            (["--prompt", "x", "--guidance", "strong"], "strong"),
            (["--prompt", "x", "--dtype", "int8"], "unknown dtype 'int8'"),
            (["--prompt", "x", "-o", "absent/out.mp4"], "output folder 'absent' does not exist"),
            (["--prompt", "x", "-o", "out.gif"], ".gif"),
            (["--prompt", "x", *TWO, "--face-mask", "0:0,0,9,9"], "speaker 1 has no face mask"),
            (["--prompt", "x", *TWO, "--face-mask", "0,0,9,9"], "does not say whose it is: write 0:0,0,9,9"),
            (["--prompt", "x", *TWO, "--face-mask", "2:0,0,9,9"], "is for --audio 2, but the last of 2 is 1"),
            (["--prompt", "x", *TWO[:2], "--face-mask", "1:0,0,9,9"], "is for --audio 1, but the last of 1 is 0"),
            (["--prompt", "x", *TWO], "2 speakers have 0 face masks"),
            (
                ["--prompt", "x", *TWO, "--face-mask", "0:predictor", "--face-mask", "1:0,0,9,9"],
                "face_masks 'predictor' is not the mask of one among speakers: give it by itself",
            ),
            (["--prompt", "x", *TWO, "--face-mask", "predictor"], "'predictor' cannot tell 2 speakers apart"),
            (["--prompt", "x", "--preset", "humo-17b", *TWO[:2], "--face-mask", "predictor"], "needs a mask predictor"),
            (["--prompt", "x", *TWO[:2], "--face-mask", "detect:absent.mp4"], "absent.mp4' does not exist"),
            (["--prompt", "x", "--face-mask-threshold", "0.3"], "is for face_masks 'predictor'"),
            (["--prompt", "x", "--contact-sheet", "absent/s.png"], "output folder 'absent' does not exist"),
            (["--prompt", "x", "--contact-sheet", "."], "contact sheet '.' is a folder"),
            (["--prompt", "x", "-o", "v.mp4", "--contact-sheet", "./v.mp4"], "would take the place of the video"),
            (["--cases", "cases.json", "-o", "text.png"], "output 'text.png' is a file: name a folder"),
        ],
    )
    def test_requests(self, folder, arguments, said, monkeypatch):
        (folder / "text.png").write_text("no picture")
        (folder / "cases.json").write_text('{"case_1": {"prompt": "x"}}')
        write_wav(folder / "empty.wav", np.zeros(0, dtype=np.int16))
        content = (folder / "speech.wav").read_bytes()
        (folder / "header.wav").write_bytes(content[:30])
        (folder / "cut.wav").write_bytes(content[: len(content) // 3])
        before = names(folder)
        monkeypatch.setattr(commands, "load_pipeline", lambda **_: pytest.fail("loaded a model for a bad request"))
        quick = [
            value for pair in zip(QUICK[::2], QUICK[1::2], strict=True) if pair[0] not in arguments for value in pair
        ]
        assert said in refused("generate", *quick, *arguments)
        assert names(folder) == before

    def test_weights_at_hand_say_whether_they_have_a_mask_predictor(self, folder):
        tiny = {**tiny_weights(tiny_config("humo-1.7b", mask_predictor=True))}
        write_published(folder, "HuMo-1.7B", tiny)
        quick = ["--steps", "1", "--num-frames", "5", "--device", "cpu", "--audio", "speech.wav"]
        arguments = ["generate", "--prompt", "x", "--preset", "humo-1.7b", "--weights", folder, *quick]
        result = run(*arguments, "--face-mask", "predictor")
        assert result.exit_code == 0, result.output

    def test_a_missing_codec_is_found_before_a_model_is_loaded(self, folder, monkeypatch):
        monkeypatch.setattr("humo_rt.media.writer.AUDIO_CODEC", "nothing")
        monkeypatch.setattr(commands, "load_pipeline", lambda **_: pytest.fail("loaded a model without a codec"))
        result = run("generate", "--prompt", "x", "--audio", "speech.wav", *QUICK)
        assert result.exit_code != 0
        assert "codec nothing is not in this build of ffmpeg" in " ".join(result.stderr.split())

    def test_a_folder_without_the_vae(self, folder):
        write_published(folder, "HuMo-17B", tiny_weights(tiny_config("humo-17b")))
        (folder / "Wan2.1-T2V-1.3B" / "Wan2.1_VAE.pth").unlink()
        assert "lacks the vae" in refused("generate", "--prompt", "x", "--weights", folder)

    def test_a_corrupt_and_a_foreign_checkpoint(self, folder):
        write_published(folder, "HuMo-17B", tiny_weights(tiny_config("humo-17b")))
        shard = next((folder / "HuMo" / "HuMo-17B").glob("*.safetensors"))
        whole = shard.read_bytes()
        shard.write_bytes(whole[: len(whole) // 2])
        assert "cut short or damaged" in refused("generate", "--prompt", "x", "--weights", folder)
        shard.write_text("<html>404</html>")
        assert "not a checkpoint" in refused("generate", "--prompt", "x", "--weights", folder)

    def test_too_little_memory(self, folder, monkeypatch):
        monkeypatch.setattr(humo_rt.weights.components, "available_memory", lambda device: 1 << 10)
        assert "too little memory" in refused("generate", "--prompt", "x", *QUICK)

    def test_a_gpu_that_is_not_there(self, folder, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert "no usable NVIDIA GPU" in refused("generate", "--prompt", "x", *QUICK[:-1], "cuda")

    def test_an_absent_codec(self, folder, monkeypatch):
        monkeypatch.setattr(humo_rt.media.writer, "VIDEO_CODEC", "libx999")
        assert "codec libx999" in refused("generate", "--prompt", "x", *QUICK)
        assert names(folder) == ["face.png", "speech.wav"]

    def test_nan_in_the_result(self, folder):
        config = tiny_config("nano", mask_predictor=True)
        weights = tiny_weights(config)
        weights["dit"]["head.head.bias"] += float("nan")
        (folder / "model").mkdir()
        write_own(folder / "model", weights)
        assert "not finite" in refused(
            "generate", "--preset", "nano", "--weights", "model", "--prompt", "x", *QUICK[2:]
        )
        assert names(folder) == ["face.png", "model", "speech.wav"]

    def test_traceback_shows_where_it_came_from(self, folder):
        result = run("generate", "--prompt", "", "--traceback", *QUICK)
        assert isinstance(result.exception, ValueError)


class TestCases:
    def write(self, folder, cases):
        (folder / "cases.json").write_text(json.dumps(cases))

    def test_one_bad_case_does_not_stop_the_others(self, folder, monkeypatch):
        loads = []
        load = commands.load_pipeline
        monkeypatch.setattr(commands, "load_pipeline", lambda **model: loads.append(model) or load(**model))
        good = {"img_paths": ["face.png"], "audio_path": "speech.wav", "prompt": "A man speaks."}
        self.write(folder, {"case_1": good, "case_2": good | {"audio_path": "absent.wav"}, "case_3": {"prompt": "x"}})
        result = run("generate", "--cases", "cases.json", "-o", "videos", *QUICK)
        assert result.exit_code == 1, result.output
        assert names(folder / "videos") == ["case_1.mp4", "case_3.mp4"]
        assert "absent.wav" in result.stderr
        assert "2 of 3 cases done, 1 failed" in result.stdout
        assert len(loads) == 1

    def test_all_good_is_exit_code_0(self, folder):
        self.write(folder, {"only": {"prompt": "x"}})
        assert run("generate", "--cases", "cases.json", *QUICK).exit_code == 0
        assert names(folder / "out") == ["only.mp4"]

    def test_a_file_that_is_no_json(self, folder):
        (folder / "cases.json").write_text("{")
        assert "not valid JSON" in refused("generate", "--cases", "cases.json", *QUICK)
        assert not (folder / "out").exists()

    def test_an_option_no_case_can_have_is_refused_before_loading(self, folder, monkeypatch):
        monkeypatch.setattr(commands, "load_pipeline", lambda **_: pytest.fail("loaded a model for a bad option"))
        self.write(folder, {"only": {"prompt": "x"}})
        assert "height 479" in refused("generate", "--cases", "cases.json", "--height", 479, *QUICK)
        assert not (folder / "out").exists()

    def test_an_option_of_some_conditions_suits_the_cases_that_have_them(self, folder):
        spoken = {"audio_path": "speech.wav", "prompt": "A man speaks."}
        reuse = ("--guidance-reuse", "TA=2", *QUICK)
        self.write(folder, {"spoken": spoken})
        assert run("generate", "--cases", "cases.json", "-o", "alone", *reuse).exit_code == 0
        self.write(folder, {"spoken": spoken, "silent": {"prompt": "x"}})
        result = run("generate", "--cases", "cases.json", "-o", "both", *reuse)
        assert result.exit_code == 1
        assert names(folder / "both") == ["spoken.mp4"]
        assert "silent: branch 'TA' is not part of this guidance: it has 0, T" in " ".join(result.stderr.split())

    def test_an_option_that_suits_none_of_the_cases_is_refused_before_loading(self, folder, monkeypatch):
        monkeypatch.setattr(commands, "load_pipeline", lambda **_: pytest.fail("loaded a model for a bad option"))
        self.write(folder, {"silent": {"prompt": "x"}, "broken": []})
        said = refused("generate", "--cases", "cases.json", "--guidance-reuse", "TA=2", *QUICK)
        assert "branch 'TA' is not part of this guidance" in said

    @pytest.mark.parametrize(
        ("option", "value"), [("--prompt", "x"), ("--audio", "a.wav"), ("--contact-sheet", "s.png")]
    )
    def test_options_that_belong_into_the_file(self, folder, option, value):
        assert f"{option} cannot be combined" in refused("generate", "--cases", "cases.json", option, value)

    def test_a_batch_has_no_trace(self, folder):
        assert "--trace cannot be combined" in refused("generate", "--cases", "cases.json", "--trace")


class TestStopping:
    def test_ctrl_c_is_exit_code_130(self, folder, monkeypatch):
        class Interrupted:
            def generate(self, **options):
                raise KeyboardInterrupt

        monkeypatch.setattr(commands, "load_pipeline", lambda **_: Interrupted())
        result = run("generate", "--prompt", "x", *QUICK)
        assert result.exit_code == 130
        assert result.stderr.startswith("stopped")

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_while_the_video_is_written_leaves_no_file(self, folder, number, code):
        script = folder / "slow.py"
        script.write_text(
            "import sys, time\n"
            "import numpy as np\n"
            "from humo_rt import cli, commands\n"
            "from humo_rt.media import BackgroundWriter, VideoWriter\n"
            "class Slow:\n"
            "    def generate(self, *, output, **options):\n"
            "        with BackgroundWriter(VideoWriter(output, fps=25, width=32, height=32)) as writer:\n"
            "            while True:\n"
            "                writer.write(np.zeros((1, 32, 32, 3), dtype=np.uint8))\n"
            "                time.sleep(0.02)\n"
            "commands.load_pipeline = lambda **model: Slow()\n"
            "commands._checked_before_loading = lambda conditions, options, *_: options\n"
            "cli.main()\n"
        )
        command = [sys.executable, str(script), "generate", "--prompt", "x", *QUICK]
        environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not (begun := list(folder.glob(".humo-*"))) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert begun, errors
        assert process.returncode == code, errors
        assert "Traceback" not in errors
        assert names(folder) == ["face.png", "slow.py", "speech.wav"]


class TestSmallCommands:
    def test_presets_and_version(self):
        listed = run("presets").stdout
        assert all(name in listed for name in PRESETS)
        assert "torch" in run("version").stdout

    def test_the_version_without_a_command(self):
        result = run("--version")
        assert result.exit_code == 0
        assert result.stdout == f"humo-rt {humo_rt.__version__}\n"
        assert run("version").stdout.startswith(result.stdout)

    def test_help_imports_nothing_heavy(self):
        code = (
            "import sys\n"
            "from humo_rt.cli import main\n"
            "sys.argv = ['humo-rt', 'generate', '--help']\n"
            "try:\n    main()\n"
            "except SystemExit:\n    pass\n"
            "heavy = {'torch', 'numpy', 'transformers', 'diffusers', 'av', 'rich'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "--audio-guidance-scale" in done.stdout


@pytest.mark.parametrize(
    ("masks", "message"),
    [(["0,0,9,9", "mask.png"], "mixes several"), (["0,0,9,9"], "face_masks are given without audio")],
)
def test_face_masks_that_cannot_be_used_are_refused(masks, message):
    options = [word for mask in masks for word in ("--face-mask", mask)]
    done = run("generate", "--prompt", "A person.", *options)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
