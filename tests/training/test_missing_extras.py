"""What the training extras bring is missed with one line that says what to install."""

from __future__ import annotations

import sys

import pytest

from tests.training.data.humoset_files import Folder, clock_frames
from training.data.humoset import HuMoSet
from training.data.humoset.table import TABLE, Columns, read_rows
from training.data.procedural.espeak import Espeak
from training.data.procedural.natural import Natural
from training.errors import RunError


@pytest.fixture
def absent(monkeypatch):
    """Makes a package look as if it were not installed."""
    return lambda *names: [monkeypatch.setitem(sys.modules, name, None) for name in names]


def test_speech_engines(absent):
    absent("espeakng_loader", "hibari")
    with pytest.raises(RunError, match=r"espeakng-loader: pip install 'humo-rt\[train\]'"):
        Espeak(seed=0)
    with pytest.raises(RunError, match=r"hibari-tts and onnxruntime: pip install 'humo-rt\[train\]'"):
        Natural()


def test_the_table_of_captions(absent, tmp_path):
    absent("pyarrow", "pyarrow.parquet")
    (tmp_path / TABLE).touch()
    with pytest.raises(RunError, match=r"pyarrow: pip install 'humo-rt\[train\]'"):
        read_rows(tmp_path, Columns())


def test_the_face_detector(absent, tmp_path):
    pytest.importorskip("pyarrow", reason="the table of captions is Parquet: pip install 'humo-rt[train]'")
    folder = Folder(tmp_path / "set")
    folder.add("clip", clock_frames([0.0, 0.04]), [0.0, 0.04])
    absent("cv2")
    with pytest.raises(RunError, match=r"OpenCV: pip install 'humo-rt\[face\]'"):
        HuMoSet(folder.write(), height=32, width=48, num_frames=1, faces="detect")
