"""Scores as text, JSON and a picture, and the bounds the nano model has to meet.

Knows the layout of a result and nothing of how it was measured. A result is a plain dictionary: ``settings``, ``rows``
(see ``protocol.score``), ``mask_iou``, ``real_speech``, ``targets``, ``seconds``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from humo_rt.config import FPS, SAMPLE_RATE

Result = dict[str, Any]

COLUMNS: dict[str, Callable[[dict[str, Any]], float | int | None]] = {
    "mouth": lambda row: row["mouth"]["correlation"],
    "lag": lambda row: row["mouth"]["lag"],
    "control": lambda row: row["mouth"]["control"],
    "sync conf.": lambda row: row["sync"]["confidence"],
    "sync dist.": lambda row: row["sync"]["distance"],
    "identity": lambda row: row["identity"],
    "text": lambda row: row["text"]["mean"],
    "closed": lambda row: row["closed"],
}

# name, where the value is, "at least" or "at most", bound
TARGETS: tuple[tuple[str, Callable[[Result], float | None], str, float], ...] = (
    ("mouth correlation, TIA", lambda r: r["rows"]["TIA"]["mouth"]["correlation"], ">=", 0.75),
    ("mouth correlation, TA", lambda r: r["rows"]["TA"]["mouth"]["correlation"], ">=", 0.75),
    ("lag in frames", lambda r: abs(r["rows"]["TIA"]["mouth"]["lag"]), "<=", 1),
    ("other clips' sound, TIA", lambda r: r["rows"]["TIA"]["mouth"]["control"], "<=", 0.15),
    ("mouth in reconstructions", lambda r: r["rows"]["reconstructions"]["mouth"]["correlation"], ">=", 0.90),
    ("identity of 10, TI", lambda r: r["rows"]["TI"]["identity"], ">=", 0.85),
    ("identity of 10, TIA", lambda r: r["rows"]["TIA"]["identity"], ">=", 0.85),
    ("text attributes, T", lambda r: r["rows"]["T"]["text"]["mean"], ">=", 0.88),
    ("text attributes, TA", lambda r: r["rows"]["TA"]["text"]["mean"], ">=", 0.88),
    ("mask IoU", lambda r: r["mask_iou"]["mean"], ">=", 0.85),
    ("closed on silence", lambda r: r["rows"]["TIA silence"]["closed"], ">=", 0.95),
    ("real speech, envelope", lambda r: r["real_speech"]["generated"]["envelope"]["correlation"], ">=", 0.50),
    ("real speech, closed in pauses", lambda r: r["real_speech"]["generated"]["closed_in_pauses"], ">=", 0.80),
)


def targets(result: Result) -> list[dict[str, Any]]:
    """Every bound with its value; ``value`` and ``met`` are None where the result does not have it."""
    checked = []
    for name, find, rule, bound in TARGETS:
        try:
            value = find(result)
        except (KeyError, TypeError):  # the row was not run
            value = None
        met = None if value is None else (value >= bound if rule == ">=" else value <= bound)
        checked.append({"name": name, "value": value, "rule": rule, "bound": bound, "met": met})
    return checked


def write_json(result: Result | list[Result], path: Path) -> None:
    """Write the result; numbers that are not finite become null."""
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(_finite(result), indent=1) + "\n")
    partial.replace(path)


def table_rows(rows: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Header, then one line of cells per row."""
    lines = [["", *COLUMNS]]
    lines += [[name, *(_cell(find(row)) for find in COLUMNS.values())] for name, row in rows.items()]
    return lines


def target_rows(result: Result) -> list[list[str]]:
    """Header, then one line of cells per bound."""
    verdict = {True: "met", False: "missed", None: "not measured"}
    lines = [["bound", "value", "", ""]]
    lines += [
        [t["name"], _cell(t["value"]), f"{t['rule']} {t['bound']:g}", verdict[t["met"]]] for t in result["targets"]
    ]
    return lines


def attribute_rows(rows: dict[str, dict[str, Any]], chosen: Sequence[str]) -> list[list[str]]:
    """Accuracy per attribute for the chosen rows."""
    present = [name for name in chosen if name in rows]
    names = list(rows[present[0]]["text"]) if present else []
    return [["attribute", *present], *([a, *(_cell(rows[r]["text"].get(a)) for r in present)] for a in names)]


def speech_rows(speech: dict[str, Any]) -> list[list[str]]:
    """Recorded speech spoken by generated people, and the same numbers on true renders."""
    columns: dict[str, Callable[[dict[str, Any]], float | int | None]] = {
        "envelope": lambda row: row["envelope"]["correlation"],
        "lag": lambda row: row["envelope"]["lag"],
        "control": lambda row: row["envelope"]["control"],
        "open in speech": lambda row: row["opening_in_speech"],
        "open in pauses": lambda row: row["opening_in_pauses"],
        "closed in pauses": lambda row: row["closed_in_pauses"],
        "sync conf.": lambda row: row["sync"]["confidence"],
        "sync dist.": lambda row: row["sync"]["distance"],
    }
    rows = {name: speech[name] for name in ("true renders", "generated")}
    return [["", *columns], *([name, *(_cell(find(row)) for find in columns.values())] for name, row in rows.items())]


def comparison(results: dict[str, Result]) -> str:
    """A Markdown table with one column per result and one line per bound."""
    header = ["", *results, "bound"]
    lines = ["| " + " | ".join(header) + " |", "| --- " * len(header) + "|"]
    checked = {name: targets(result) for name, result in results.items()}
    for i, (name, _, rule, bound) in enumerate(TARGETS):
        values = [_cell(checked[result][i]["value"]) for result in results]
        lines.append("| " + " | ".join([name, *values, f"{rule} {bound:g}"]) + " |")
    return "\n".join(lines)


def sheet(videos: dict[str, Tensor], sounds: dict[str, Tensor], path: Path, *, clips: int = 3) -> None:
    """Write a PNG: for each of the first ``clips`` clips one strip per row, the sound drawn over its frames.

    ``videos``: row name -> uint8 (B, F, 3, H, W); ``sounds``: row name -> (B, S) at 16 kHz.
    """
    from PIL import Image, ImageDraw

    from humo_rt.contact_sheet import contact_sheet, save_contact_sheet

    strips = []
    for clip in range(clips):
        for name, video in videos.items():
            if clip < len(video):
                frames = video[clip].permute(0, 2, 3, 1).cpu().numpy()
                sound = sounds[name][clip].float().cpu().numpy()
                strip = contact_sheet(frames, sound, SAMPLE_RATE, FPS, columns=16, rows=1, cell=96)
                ImageDraw.Draw(strip).text((6, 4), f"{name}, clip {clip}", fill=(0, 0, 0))
                strips.append(np.asarray(strip))
    save_contact_sheet(Image.fromarray(np.concatenate(strips)), path)


def _cell(value: float | int | None) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
