"""The command line of the evaluation: mistakes cost one line, earlier scores can be compared, a whole run works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from humo_rt.config import NANO
from training import evaluate
from training.judges.config import JudgesConfig
from training.judges.tasks import JudgesTask


def test_a_sweep_never_sees_the_test_clips(capsys) -> None:
    assert evaluate.main(["--sweep", "2,3,2", "--split", "test"]) == 2
    assert "use --split dev" in capsys.readouterr().err


def test_judges_that_are_not_there_are_named(tmp_path: Path, capsys) -> None:
    arguments = ["--weights", "random", "--device", "cpu", "--judges", str(tmp_path), "--clips", "1"]
    assert evaluate.main(arguments) == 2
    assert "train the recipe nano-judges" in capsys.readouterr().err.replace("\n", " ")


def test_a_precision_needs_its_card(tmp_path: Path, capsys) -> None:
    arguments = ["--weights", "random", "--device", "cpu", "--judges", str(tmp_path), "--precision", "fp8"]
    assert evaluate.main(arguments) == 2
    assert "precision 'fp8' needs an NVIDIA GPU, not cpu: use 'exact'" in capsys.readouterr().err.replace("\n", " ")


def test_scales_are_three_numbers(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        evaluate.main(["--scales", "2,3"])
    assert stop.value.code == 2
    assert "not three numbers" in capsys.readouterr().err


def test_earlier_scores_are_compared(tmp_path: Path, capsys) -> None:
    rows = {"TIA": {"mouth": {"correlation": 0.7, "lag": 0, "control": 0.1}, "identity": 0.9}}
    for name in ("full", "single"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": rows}))
    paths = [str(tmp_path / f"{name}.json") for name in ("full", "single")]
    assert evaluate.main(["--compare", *paths]) == 0
    assert "| mouth correlation, TIA | 0.700 | 0.700 | >= 0.75 |" in capsys.readouterr().out


def test_scores_of_files_of_one_name_have_a_column_each(tmp_path: Path, capsys) -> None:
    paths = []
    for run, identity in (("first", 0.8), ("second", 0.9)):
        paths.append(tmp_path / run / "scores.json")
        paths[-1].parent.mkdir()
        row = {"mouth": {"correlation": 0.7, "lag": 0, "control": 0.1}, "identity": identity}
        paths[-1].write_text(json.dumps({"rows": {"TIA": row}}))
    assert evaluate.main(["--compare", *map(str, paths)]) == 0
    printed = capsys.readouterr().out
    assert all(str(path) in printed for path in paths)
    assert "| 0.800 | 0.900 |" in printed


def test_results_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path, capsys) -> None:
    assert evaluate.main(["--device", "cpu", "--json", str(tmp_path / "absent" / "scores.json")]) == 2
    assert "create it first" in capsys.readouterr().err.replace("\n", " ")
    assert evaluate.main(["--device", "cpu", "--sheet", str(tmp_path)]) == 2
    assert "is a folder: name a file in it" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--frames", "34"], "--frames 34 is not 4n+1: use 33 or 37"),
        (["--batch", "0"], "--batch 0 is below 1"),
        (["--steps", "-1"], "--steps -1 is below 1"),
    ],
)
def test_numbers_that_cannot_work_are_refused_before_the_work(arguments, message, capsys) -> None:
    assert evaluate.main(["--device", "cpu", *arguments]) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.slow
def test_a_whole_evaluation_with_random_weights(tmp_path: Path, capsys) -> None:
    task = JudgesTask(JudgesConfig(width=8))
    task.export(task.build(torch.device("cpu")).state_dict(), tmp_path / "judges.safetensors")
    scores, sheet = tmp_path / "scores.json", tmp_path / "sheet.png"
    arguments = ["--weights", "random", "--device", "cpu", "--judges", str(tmp_path), "--clips", "12", "--steps", "1"]
    arguments += ["--height", "32", "--width", "32", "--frames", "33", "--json", str(scores), "--sheet", str(sheet)]
    assert evaluate.main(arguments) == 0
    result = json.loads(scores.read_text())
    assert set(result) == {"settings", "rows", "mask_iou", "real_speech", "targets", "seconds"}
    used = {"text": NANO.guidance_scale, "audio": NANO.audio_guidance_scale, "image": NANO.image_guidance_scale}
    assert result["settings"]["scales"] == used
    assert set(result["rows"]["TIA"]) == {"mouth", "sync", "identity", "text", "closed", "mean_opening"}
    assert all(target["met"] is not None for target in result["targets"])
    assert sheet.is_file()
    assert "held-out clips" in capsys.readouterr().out
