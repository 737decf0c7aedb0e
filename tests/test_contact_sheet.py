"""A video on one page: size, order of the frames, sound under the frames it belongs to."""

from __future__ import annotations

import numpy as np
import pytest

from humo_rt.contact_sheet import contact_sheet, save_contact_sheet

RATE, FPS = 16_000, 25


def frames(count: int) -> np.ndarray:
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 32, 48, 3)).copy()


def ink(sheet, top: int, bottom: int, left: int, right: int) -> float:
    return 255 - float(np.asarray(sheet.convert("L"))[top:bottom, left:right].mean())


def test_frames_are_spread_over_the_video_in_reading_order():
    sheet = np.asarray(contact_sheet(frames(96), None, RATE, FPS, columns=4, rows=2, cell=48))
    row_height = (sheet.shape[0] - 2 * 20 + 16) // 2
    centres = [(20 + row * row_height + 16, 20 + column * 54 + 24) for row in range(2) for column in range(4)]
    assert [int(sheet[centre][0]) for centre in centres] == [0, 12, 24, 36, 48, 60, 72, 84]


def test_short_videos_make_small_sheets():
    wide = contact_sheet(frames(97), None, RATE, FPS)
    few = contact_sheet(frames(5), None, RATE, FPS)
    assert few.width == 2 * 20 + 5 * 166 - 6
    assert few.height < wide.height
    assert contact_sheet(frames(1), None, RATE, FPS).size < few.size
    with pytest.raises(ValueError, match="without frames"):
        contact_sheet(frames(0), None, RATE, FPS)


@pytest.mark.parametrize("channels", [1, 2])
def test_the_wave_stands_under_the_frames_that_are_heard(channels):
    sound = np.zeros((RATE, channels), np.float32)
    sound[RATE // 2 :] = 0.1 * np.sin(np.arange(RATE // 2))[:, None]
    sheet = contact_sheet(frames(25), sound if channels == 2 else sound[:, 0], RATE, FPS, columns=4, rows=1, cell=48)
    top, middle = 20 + 32 + 6, 20 + 2 * 54
    silent, loud = (ink(sheet, top, top + 52, *span) for span in ((24, middle - 12), (middle + 4, middle + 90)))
    assert loud > 2 * silent


def test_sound_shorter_than_the_video_and_silence_are_drawn():
    for sound in (np.zeros(100, np.float32), np.zeros(RATE, np.float32), np.zeros(0, np.float32)):
        contact_sheet(frames(25), sound, RATE, FPS)


def test_a_title_takes_its_own_line_and_is_shortened():
    plain, titled = (contact_sheet(frames(9), None, RATE, FPS, title=title) for title in (None, "speech " * 100))
    assert titled.height > plain.height
    assert titled.width == plain.width


def test_the_file_is_whole_or_absent(tmp_path):
    sheet = contact_sheet(frames(9), None, RATE, FPS)
    assert save_contact_sheet(sheet, tmp_path / "sheet.png").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    with pytest.raises(RuntimeError, match="choose a folder that exists"):
        save_contact_sheet(sheet, tmp_path / "missing" / "sheet.png")
