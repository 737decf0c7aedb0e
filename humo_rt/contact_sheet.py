"""A video on one page: frames in rows, the sound that plays meanwhile drawn over each row.

Knows pixels and samples. Writes one PNG; knows nothing of models.

Shape suffixes: F frames, H height, W width, S samples.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

_GAP = 4
_WAVE_HEIGHT = 40
_PAPER = (255, 255, 255)
_INK = (40, 80, 160)
_QUIET = (200, 200, 200)


def contact_sheet(
    frames_FHWC: np.ndarray,
    audio_S: np.ndarray | None,
    sample_rate: int,
    fps: float,
    *,
    columns: int = 12,
    rows: int = 2,
    cell: int = 128,
) -> Image:
    """Draw ``columns * rows`` evenly spaced frames (uint8 RGB), fewer if the video is shorter, each ``cell`` wide.

    The strip over a row spans the time from its first frame to the next row's; its height is the peak of the sound.
    """
    from PIL import Image as PillowImage

    total = len(frames_FHWC)
    columns = min(columns, total)
    count = min(total, columns * rows)
    chosen = np.linspace(0, total, count, endpoint=False).astype(int)
    height, width = frames_FHWC.shape[1:3]
    cell_height = max(1, round(cell * height / width))
    row_height = _WAVE_HEIGHT + cell_height + 2 * _GAP
    used_rows = -(-count // columns)
    sheet = PillowImage.new("RGB", (columns * (cell + _GAP) + _GAP, used_rows * row_height + _GAP), _PAPER)
    for row in range(used_rows):
        members = chosen[row * columns : (row + 1) * columns]
        top = _GAP + row * row_height
        begin = members[0] / fps
        end = (chosen[(row + 1) * columns] if (row + 1) * columns < count else total) / fps
        span = len(members) * (cell + _GAP) - _GAP
        strip = _waveform(audio_S, sample_rate, begin, end, span)
        sheet.paste(PillowImage.fromarray(strip), (_GAP, top))
        for column, index in enumerate(members):
            picture = PillowImage.fromarray(frames_FHWC[index]).resize((cell, cell_height))
            sheet.paste(picture, (_GAP + column * (cell + _GAP), top + _WAVE_HEIGHT + _GAP))
    return sheet


def save_contact_sheet(sheet: Image, path: str | Path) -> Path:
    """Write the sheet as a PNG under a temporary name, then rename. ``RuntimeError`` if the folder cannot take it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        sheet.save(temporary, format="PNG")
        temporary.replace(path)
    except OSError as error:
        raise RuntimeError(f"cannot write {str(path)!r} ({error.strerror}): choose a folder that exists") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _waveform(audio_S: np.ndarray | None, sample_rate: int, begin: float, end: float, width: int) -> np.ndarray:
    """Peak per column between two moments in seconds: uint8 (height, width, 3)."""
    strip = np.full((_WAVE_HEIGHT, width, 3), _PAPER, dtype=np.uint8)
    middle = _WAVE_HEIGHT // 2
    strip[middle] = _QUIET
    if audio_S is None:
        return strip
    edges = np.linspace(begin * sample_rate, end * sample_rate, width + 1).astype(int)
    loudest = max(float(np.abs(audio_S).max(initial=0.0)), 1e-4)
    for column, (first, last) in enumerate(pairwise(edges)):
        peak = float(np.abs(audio_S[first : max(last, first + 1)]).max(initial=0.0))
        reach = round(peak / loudest * (middle - 1))
        if reach:
            strip[middle - reach : middle + reach + 1, column] = _INK
    return strip
