"""Bounds, JSON and the comparison of recipes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

from training.evaluation import report


def result(mouth: float = 0.8) -> report.Result:
    """A result with the rows that most bounds look at."""
    row = {
        "mouth": {"correlation": mouth, "error": 0.01, "lag": -1, "control": 0.02, "clips": 60, "skipped": 4},
        "sync": {"confidence": 0.4, "distance": 0.9, "lag": 0.0, "within_one": 0.9},
        "identity": 0.9,
        "text": {"gender": 1.0, "mean": 0.9},
        "closed": 0.3,
        "mean_opening": 0.2,
    }
    names = ("true frames", "reconstructions", "T", "TI", "TA", "TIA", "TIA silence", "none")
    return {"settings": {}, "rows": dict.fromkeys(names, row), "mask_iou": {"200": 0.9, "mean": 0.9}}


def test_bounds_are_met_missed_or_not_measured() -> None:
    checked = {t["name"]: t["met"] for t in report.targets(result())}
    assert checked["mouth correlation, TIA"] is True
    assert checked["mouth in reconstructions"] is False
    assert checked["lag in frames"] is True
    assert checked["real speech, envelope"] is None


def test_json_has_no_numbers_that_json_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    report.write_json(result(math.nan), path)
    read = json.loads(path.read_text())
    assert read["rows"]["TIA"]["mouth"]["correlation"] is None
    assert read["rows"]["TIA"]["mouth"]["lag"] == -1
    assert list(tmp_path.iterdir()) == [path]


def test_the_comparison_puts_recipes_side_by_side() -> None:
    lines = report.comparison({"full": result(), "single stage": result(0.7)}).splitlines()
    assert lines[0] == "|  | full | single stage | bound |"
    assert lines[2] == "| mouth correlation, TIA | 0.800 | 0.700 | >= 0.75 |"
    assert lines[-1].count("-") >= 2


def test_tables_have_a_cell_for_every_column() -> None:
    rows = report.table_rows(result()["rows"])
    assert {len(row) for row in rows} == {1 + len(report.COLUMNS)}
    assert report.attribute_rows(result()["rows"], ("T", "missing"))[1:] == [["gender", "1.000"], ["mean", "0.900"]]


def test_the_sheet_shows_every_row_of_every_clip(tmp_path: Path) -> None:
    from PIL import Image

    video = torch.randint(0, 255, (2, 20, 3, 32, 32), dtype=torch.uint8)
    sounds = {"true frames": torch.randn(2, 12_800), "TIA": torch.randn(2, 12_800)}
    path = tmp_path / "sheet.png"
    report.sheet({"true frames": video, "TIA": video}, sounds, path, clips=2)
    with Image.open(path) as sheet:
        assert sheet.height % 4 == 0
        assert sheet.width > 16 * 96
