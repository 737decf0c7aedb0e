"""A video on one page: frames in rows, and under each row the sound that plays meanwhile.

Knows pixels and samples. Writes one PNG; knows nothing of models.

Shape suffixes: F frames, H height, W width, S samples, C channels.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

_MARGIN, _GAP, _ROW_GAP = 20, 6, 16
_WAVE_HEIGHT, _LABEL_HEIGHT, _TITLE_HEIGHT = 52, 16, 34
_TITLE_SIZE, _LABEL_SIZE = 17, 11
_CORNER = 5
# The waveform is drawn this much larger and shrunk: smooth edges.
_OVERSAMPLING = 3
# Sound quieter than this peak is drawn as silence, not blown up to full height.
_QUIETEST_PEAK = 1e-3

# A moment is drawn as loud as the sound around it, so that the wave shows syllables and not single vibrations.
_AROUND_SECONDS = 0.008
# Below 1, quiet speech is drawn larger than it is.
_CONTRAST = 0.7

_PAPER = (255, 255, 255)
_BAND = (240, 243, 247)
_TICK = (208, 215, 224)
_PEAK = (148, 197, 224)
_LOUD = (24, 104, 158)
_TITLE = (24, 29, 38)
_LABEL = (112, 121, 136)


def contact_sheet(
    frames_FHWC: np.ndarray,
    audio_SC: np.ndarray | None,
    sample_rate: int,
    fps: float,
    *,
    columns: int = 8,
    rows: int = 3,
    cell: int = 160,
    title: str | None = None,
) -> Image:
    """Draw ``columns * rows`` evenly spaced frames (uint8 RGB), fewer if the video is shorter, each ``cell`` wide.

    ``audio_SC``: (S,) or (S, C), starting with the video. A frame's left edge and the tick under it are the same
    moment; its label gives the seconds. The dark wave is the mean power, the light one the peak.
    """
    from PIL import Image as PillowImage

    total = len(frames_FHWC)
    if total == 0:
        raise ValueError("a video without frames has no contact sheet: give at least one frame")
    count = min(total, columns * rows)
    columns = min(columns, count)
    rows = -(-count // columns)
    # One bound more than frames: where the last frame's share of the sound ends.
    bounds = np.linspace(0, total, count + 1)
    cell_height = max(1, round(cell * frames_FHWC.shape[1] / frames_FHWC.shape[2]))
    row_height = cell_height + _GAP + _WAVE_HEIGHT + _LABEL_HEIGHT + _ROW_GAP
    top = _MARGIN + (_TITLE_HEIGHT if title else 0)
    size = (2 * _MARGIN + columns * (cell + _GAP) - _GAP, top + rows * row_height - _ROW_GAP + _MARGIN)
    sheet = PillowImage.new("RGB", size, _PAPER)
    if title:
        _write(sheet, (_MARGIN, _MARGIN - 4), title, _TITLE, _TITLE_SIZE, size[0] - 2 * _MARGIN)
    mono_S = _mono(audio_SC, round(total / fps * sample_rate))
    for row in range(rows):
        begin, end = row * columns, min((row + 1) * columns, count)
        place = (_MARGIN, top + row * row_height)
        chosen = frames_FHWC[bounds[begin:end].astype(int)]
        _draw_frames(sheet, place, chosen, (cell, cell_height))
        below = (place[0], place[1] + cell_height + _GAP)
        _draw_sound(sheet, below, cell, bounds[begin : end + 1].astype(int) / fps, mono_S, sample_rate)
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


def _mono(audio_SC: np.ndarray | None, length: int) -> np.ndarray:
    """The first ``length`` samples as (S,) scaled to a peak of 1; empty without sound, near zero in silence."""
    if audio_SC is None:
        return np.zeros(0, dtype=np.float32)
    mono_S = np.asarray(audio_SC, dtype=np.float32)[:length]
    mono_S = mono_S.mean(axis=1) if mono_S.ndim == 2 else mono_S
    return mono_S / max(float(np.abs(mono_S).max(initial=0.0)), _QUIETEST_PEAK)


def _draw_frames(sheet: Image, place: tuple[int, int], frames_FHWC: np.ndarray, size: tuple[int, int]) -> None:
    from PIL import Image as PillowImage
    from PIL import ImageDraw

    scale = 4
    corners = PillowImage.new("L", (size[0] * scale, size[1] * scale))
    ImageDraw.Draw(corners).rounded_rectangle(
        (0, 0, corners.width - 1, corners.height - 1), radius=_CORNER * scale, fill=255
    )
    corners = corners.resize(size, PillowImage.Resampling.LANCZOS)
    for column, pixels in enumerate(frames_FHWC):
        picture = PillowImage.fromarray(pixels).resize(size, PillowImage.Resampling.LANCZOS)
        sheet.paste(picture, (place[0] + column * (size[0] + _GAP), place[1]), corners)


def _draw_sound(
    sheet: Image, place: tuple[int, int], cell: int, times: np.ndarray, mono_S: np.ndarray, sample_rate: int
) -> None:
    """The wave between the first and the last of ``times`` (seconds of every cell's edges), ticks and labels."""
    from PIL import ImageDraw

    left, top = place
    bottom = top + _WAVE_HEIGHT - 1
    pen = ImageDraw.Draw(sheet)
    lefts = [left + column * (cell + _GAP) for column in range(len(times) - 1)]
    pen.rounded_rectangle((left, top, lefts[-1] + cell - 1, bottom), radius=_CORNER, fill=_BAND)
    for position in lefts[1:]:
        pen.line((position, top, position, bottom), fill=_TICK)
    strides = [*np.diff(lefts).tolist(), cell]
    edges = [np.linspace(a, b, stride, endpoint=False) for a, b, stride in zip(times, times[1:], strides, strict=False)]
    wave = _wave(mono_S, np.append(np.concatenate(edges), times[-1]) * sample_rate, sample_rate)
    sheet.paste(wave[0], (left, top), wave[1])
    for position, seconds in zip(lefts, times, strict=False):
        _write(sheet, (position, bottom + 4), f"{seconds:.2f} s", _LABEL, _LABEL_SIZE, cell)


def _wave(mono_S: np.ndarray, edges: np.ndarray, sample_rate: int) -> tuple[Image, Image]:
    """Colours and opacity of the wave, one column of pixels between every two ``edges`` (positions in samples)."""
    from PIL import Image as PillowImage

    fine = np.interp(np.arange((len(edges) - 1) * _OVERSAMPLING + 1) / _OVERSAMPLING, np.arange(len(edges)), edges)
    height, width = _WAVE_HEIGHT * _OVERSAMPLING, len(fine) - 1
    around = max(round(_AROUND_SECONDS * sample_rate), 1)
    peak, power = np.zeros(width), np.zeros(width)
    for column, (first, last) in enumerate(zip(fine[:-1].astype(int), fine[1:].astype(int), strict=True)):
        heard = mono_S[max(first - around, 0) : last + around]
        if heard.size:
            peak[column], power[column] = np.abs(heard).max(), np.sqrt(np.mean(np.square(heard)))
    peak, power = peak**_CONTRAST, power**_CONTRAST
    away = np.abs(np.arange(height) - (height - 1) / 2)[:, None]
    reach = (height - 1) / 2 * 0.92
    # A line stays where nothing is heard, so that silence is seen to be silence.
    thread = _OVERSAMPLING / 2
    opacity = ((away <= np.maximum(peak * reach, thread)) * 255).astype(np.uint8)
    colours = np.where((away <= power * reach)[..., None], _LOUD, _PEAK).astype(np.uint8)
    size = (width // _OVERSAMPLING, _WAVE_HEIGHT)
    shrink = PillowImage.Resampling.BOX
    return PillowImage.fromarray(colours).resize(size, shrink), PillowImage.fromarray(opacity).resize(size, shrink)


def _write(sheet: Image, place: tuple[int, int], text: str, colour: tuple[int, int, int], size: int, room: int) -> None:
    """Text in Pillow's own font, shortened with dots to ``room`` pixels."""
    from PIL import ImageDraw, ImageFont

    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size)
    if pen.textlength(text, font=font) > room:
        while text and pen.textlength(text + "...", font=font) > room:
            text = text[:-1]
        text = text.rstrip() + "..."
    pen.text(place, text, fill=colour, font=font)
