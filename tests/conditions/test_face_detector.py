"""Faces found in frames: what counts as one, and what is drawn of it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from humo_rt.conditions import face_detector
from humo_rt.conditions.face_detector import EVERY, draw, find_faces, require_detector, spread

FACE, GHOST = (10, 10, 30, 30), (50, 50, 60, 60)


def test_a_box_seen_once_is_dropped_and_a_gap_is_bridged(monkeypatch):
    answers = iter([[FACE], [FACE, GHOST], [], [FACE], [FACE]])
    monkeypatch.setattr(face_detector, "_search", lambda frame: next(answers))
    assert find_faces(np.zeros((5 * EVERY, 8, 8, 3), np.uint8)) == [[FACE]] * 5


def test_a_single_picture_needs_no_second_opinion(monkeypatch):
    monkeypatch.setattr(face_detector, "_search", lambda frame: [FACE])
    assert find_faces(np.zeros((1, 8, 8, 3), np.uint8)) == [[FACE]]


def test_every_frame_takes_the_nearest_search():
    assert spread([[FACE], [GHOST]], 6) == [[FACE]] * 2 + [[GHOST]] * 4


def test_a_face_is_the_ellipse_in_its_box():
    (mask,) = draw([[(8, 0, 24, 32)]], 32, 32)
    assert mask[16, 8:24].all()
    assert not mask[0, 8]
    assert mask.mean() == pytest.approx(np.pi * 8 * 16 / 32**2, rel=0.02)


def test_without_opencv_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(RuntimeError, match=r"finding faces needs OpenCV: pip install 'humo-rt\[face\]'"):
        require_detector()
