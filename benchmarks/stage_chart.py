"""Seconds of every stage as a bar chart. Knows numbers and pixels; nothing of what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_MARGIN, _LABELS, _BARS, _NUMBERS = 24, 110, 560, 100
_BAR, _GAP, _GROUP_GAP, _TITLE, _LEGEND = 16, 3, 12, 34, 24
_PAPER, _TEXT, _QUIET = (255, 255, 255), (24, 29, 38), (112, 121, 136)
_COLOURS = ((24, 104, 158), (148, 197, 224), (214, 137, 64), (104, 159, 98), (150, 111, 176))


def save_stage_chart(path: Path, variants: Mapping[str, Mapping[str, float]], title: str) -> Path:
    """Write a PNG: for every stage one bar for each of at most five ``variants``, which map stages to seconds."""
    stages = list(dict.fromkeys(stage for seconds in variants.values() for stage in seconds))
    group = len(variants) * (_BAR + _GAP) + _GROUP_GAP
    top = _MARGIN + _TITLE + _LEGEND
    width = 2 * _MARGIN + _LABELS + _BARS + _NUMBERS
    chart = Image.new("RGB", (width, top + len(stages) * group + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(chart)
    pen.text((_MARGIN, _MARGIN), title, fill=_TEXT, font=ImageFont.load_default(17))
    _draw_legend(pen, (_MARGIN, _MARGIN + _TITLE), list(variants))
    longest = max((value for seconds in variants.values() for value in seconds.values()), default=0.0) or 1.0
    font = ImageFont.load_default(13)
    left = _MARGIN + _LABELS
    for row, stage in enumerate(stages):
        y = top + row * group
        pen.text((_MARGIN, y), stage, fill=_TEXT, font=font)
        for seconds, colour in zip(variants.values(), _COLOURS, strict=False):
            value = seconds.get(stage)
            if value is not None:
                # A stage that took any time is seen.
                right = left + max(1, round(_BARS * value / longest))
                pen.rectangle((left, y, right, y + _BAR - 1), fill=colour)
                pen.text((right + 6, y), f"{value:.3f} s", fill=_QUIET, font=font)
            y += _BAR + _GAP
    chart.save(path, format="PNG")
    return path


def _draw_legend(pen: ImageDraw.ImageDraw, place: tuple[int, int], names: list[str]) -> None:
    if len(names) > len(_COLOURS):
        raise ValueError(f"{len(names)} variants do not fit one chart: give at most {len(_COLOURS)}")
    x, y = place
    font = ImageFont.load_default(13)
    for name, colour in zip(names, _COLOURS, strict=False):
        pen.rectangle((x, y + 2, x + 11, y + 13), fill=colour)
        pen.text((x + 18, y), name, fill=_TEXT, font=font)
        x += 18 + round(pen.textlength(name, font=font)) + 24
