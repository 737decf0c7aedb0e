"""The record of a run that broke off and goes on."""

from __future__ import annotations

import json

from training.logbook import Logbook


def steps(folder):
    return [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]


def written(folder, *numbers, **options):
    logbook = Logbook(folder, **options)
    for step in numbers:
        logbook.scalars(step, {"loss": 1.0 / step})
    logbook.close()


def test_a_run_that_goes_on_has_every_step_once(tmp_path):
    written(tmp_path, 10, 20, 30)
    written(tmp_path, 30, 40, step=20)
    assert steps(tmp_path) == [10, 20, 30, 40]


def test_a_line_that_was_cut_off_is_taken_out(tmp_path):
    written(tmp_path, 10, 20)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 30, "lo')
    written(tmp_path, 30, step=20)
    assert steps(tmp_path) == [10, 20, 30]


def test_a_run_that_broke_off_before_it_kept_anything_starts_anew(tmp_path):
    written(tmp_path, 10, 20)
    written(tmp_path, 10)
    assert steps(tmp_path) == [10]
