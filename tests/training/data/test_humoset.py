"""Recorded clips in HuMoSet's layout: time, crops, masks, sound, bad samples, and the index that remembers them."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from tests.training.data.humoset_files import RATE, Folder, clock_frames, drawn_face
from training.data.humoset import BadSample, Columns, HuMoSet, HuMoSetSource
from training.data.humoset import dataset as dataset_module
from training.data.humoset.mask_file import read_masks
from training.data.humoset.recording import cover
from training.tasks.sources import ClipSize

pytest.importorskip("pyarrow", reason="the table of captions is Parquet: pip install 'humo-rt[train]'")

AT_25 = [k / 25 for k in range(24)]
FORM = {"height": 32, "width": 48, "num_frames": 21, "workers": 1}
PLAIN = FORM | {"faces": "none"}


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path / "set")


def grey(clips) -> torch.Tensor:
    """The clock of ``clock_frames``: seconds shown by every frame of the first clip."""
    return clips.video_BFCHW[0].float().mean(dim=(1, 2, 3)) / 100


class TestTime:
    @pytest.mark.parametrize(
        "seconds",
        [
            AT_25,
            [k / 24 for k in range(24)],
            [k / 50 for k in range(48)],
            [0, 0.04, 0.08, 0.3, 0.34, 0.5, 0.54, 0.58, 0.62, 0.8, 0.84, 0.9],
        ],
        ids=["25", "24", "50", "variable"],
    )
    def test_every_frame_is_the_nearest_in_time(self, folder, seconds):
        folder.add("clock", clock_frames(seconds), seconds)
        shown = grey(HuMoSet(folder.write(), **PLAIN).clips([0]))
        wanted = torch.arange(21) / 25
        errors = (torch.tensor(seconds)[None] - wanted[:, None]).abs().amin(dim=1)
        assert ((shown - wanted).abs() <= errors + 0.015).all()

    def test_sound_is_cut_to_the_frames(self, folder):
        folder.add("clock", clock_frames(AT_25), AT_25)
        clips = HuMoSet(folder.write(), **PLAIN).clips([0])
        assert clips.audio_BS.shape == (1, 21 * 640)
        loud = clips.audio_BS[0].unfold(0, 160, 160).abs().amax(dim=1) > 0.1
        assert abs(loud.nonzero()[0].item() * 160 - RATE // 2) <= 320
        assert clips.has_audio_B.tolist() == [True]

    def test_a_clip_without_sound_is_silent(self, folder):
        folder.add("clock", clock_frames(AT_25), AT_25, sound=False)
        clips = HuMoSet(folder.write(), **PLAIN).clips([0])
        assert clips.has_audio_B.tolist() == [False]
        assert not clips.audio_BS.any()


class TestPicture:
    def test_shapes_and_words(self, folder):
        folder.add("a", clock_frames(AT_25), AT_25, caption=" She speaks. ", mask=(16, 16, 40, 40))
        folder.add("b", clock_frames(AT_25), AT_25, mask=(16, 16, 40, 40))
        clips = HuMoSet(folder.write(), **FORM, references=2).clips([1, 0])
        assert clips.video_BFCHW.shape == (2, 21, 3, 32, 48)
        assert clips.video_BFCHW.dtype == clips.references_BRCHW.dtype == torch.uint8
        assert clips.references_BRCHW.shape == (2, 2, 3, 32, 48)
        assert clips.face_BFHW.shape == (2, 21, 32, 48)
        assert clips.mouth_BFHW is None
        assert clips.captions == [["A person speaks."], ["She speaks."]]

    def test_reference_is_fitted_on_white(self, folder):
        folder.add("a", clock_frames(AT_25), AT_25)
        image = HuMoSet(folder.write(), **PLAIN).clips([0]).references_BRCHW[0, 0]
        assert image[:, 16, 24].tolist() == [200, 0, 0]
        assert image[:, 16, 2].tolist() == [255, 255, 255]

    def test_the_crop_follows_the_face_and_so_does_the_mask(self, folder):
        frame = np.zeros((64, 192, 3), np.uint8)
        frame[16:48, 128:160] = 250  # the "face", right of the centre
        folder.add("right", [frame] * 24, AT_25, mask=(128, 16, 160, 48))
        clips = HuMoSet(folder.write(), height=64, width=64, num_frames=21).clips([0])
        bright = clips.video_BFCHW[0].float().mean(dim=1) > 128
        face = clips.face_BFHW[0]
        assert (bright & face).sum() / (bright | face).sum() > 0.9
        assert face.float().mean() == pytest.approx(0.25, abs=0.02)

    def test_cover_takes_the_largest_window_inside(self):
        assert cover((100, 300), (50, 50), None) == (0, 100, 100, 100)
        assert cover((100, 300), (50, 50), (0.5, 0.95)) == (0, 200, 100, 100)
        assert cover((300, 100), (32, 64), (0.5, 0.5)) == (125, 0, 50, 100)


class TestFaces:
    def test_a_face_is_found_where_no_mask_is_given(self, folder):
        pytest.importorskip("cv2", reason="the face detector is an extra: pip install 'humo-rt[face]'")
        frame = drawn_face(128, 160, 60, 25, 64)
        folder.add("drawn", [frame] * 24, AT_25)
        source = HuMoSet(folder.write(), height=128, width=160, num_frames=21, faces="detect")
        face = source.clips([0]).face_BFHW[0]
        y, x = np.mgrid[:128, :160] + 0.5
        true = torch.from_numpy(((x - 92) / 26) ** 2 + ((y - 60) / 35) ** 2 <= 1)
        assert (face & true).sum() / (face | true).sum() > 0.6

    def test_a_clip_without_a_face_is_skipped(self, folder):
        pytest.importorskip("cv2", reason="the face detector is an extra: pip install 'humo-rt[face]'")
        folder.add("empty", clock_frames(AT_25), AT_25)
        with pytest.raises(ValueError, match="1 no face"):
            HuMoSet(folder.write(), **FORM)

    def test_boxes_in_a_file_are_drawn(self, tmp_path):
        boxes = np.full((4, 2, 4), -1, np.int16)
        boxes[:, 0] = (8, 8, 24, 24)
        np.savez(tmp_path / "boxes.npz", boxes=boxes)
        mask = read_masks(tmp_path / "boxes.npz", [0, 1, 3], 32, 32)
        assert mask.shape == (3, 32, 32)
        assert mask[2, 16, 16]
        assert mask[2].mean() == pytest.approx(np.pi * 64 / 1024, abs=0.02)


class TestBadSamples:
    def test_masks_that_cannot_be_read(self, tmp_path):
        whole = tmp_path / "whole.npz"
        np.savez(whole, mask=np.ones((4, 8, 8), bool))
        (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:-40])
        (tmp_path / "bad.npz").write_bytes(whole.read_bytes()[:60] + b"x" * 40 + whole.read_bytes()[100:])
        np.save(tmp_path / "array.npy", np.ones((4, 8, 8), bool))
        (tmp_path / "array.npy").rename(tmp_path / "array.npz")
        np.savez(tmp_path / "empty.npz", mask=np.ones((4, 0, 0), bool))
        assert read_masks(whole, [0, 3], 8, 8).shape == (2, 8, 8)
        for name in ("cut", "bad", "array", "empty"):
            with pytest.raises(BadSample, match="unreadable face mask"):
                read_masks(tmp_path / f"{name}.npz", [0, 3], 8, 8)

    def test_each_is_reported_with_its_reason_and_skipped(self, folder, caplog):
        good = folder.add("good", clock_frames(AT_25), AT_25, mask=(16, 16, 40, 40))
        folder.add("short", clock_frames(AT_25[:15]), AT_25[:15], mask=(16, 16, 40, 40))
        folder.add("wordless", clock_frames(AT_25), AT_25, caption="  ", mask=(16, 16, 40, 40))
        folder.add("faceless", clock_frames(AT_25), AT_25, mask=(0, 0, 0, 0))
        cut = folder.add("cut", clock_frames(AT_25), AT_25, mask=(16, 16, 40, 40))
        cut.write_bytes(good.read_bytes()[:200])
        folder.add("alone", clock_frames(AT_25), AT_25, mask=(16, 16, 40, 40))
        (folder.root / "reference_image" / "alone.png").unlink()
        folder.add("spoilt", clock_frames(AT_25), AT_25, mask=(16, 16, 40, 40))
        (folder.root / "reference_image" / "spoilt.png").write_text("no picture")
        folder.add("maskless", clock_frames(AT_25), AT_25, mask=(16, 16, 40, 40))
        (folder.root / "face_mask" / "maskless.npz").write_text("no mask")
        folder.add("gone", clock_frames(AT_25), AT_25).unlink()
        with caplog.at_level(logging.WARNING):
            source = HuMoSet(folder.write(), **FORM)
        assert source.names() == ["video/good.mp4"]
        assert {name.split("/")[1][:-4]: problem.kind for name, problem in source.rejected} == {
            "short": "too short",
            "wordless": "empty caption",
            "faceless": "no face",
            "cut": "unreadable video",
            "alone": "missing reference",
            "spoilt": "unreadable reference",
            "maskless": "unreadable face mask",
            "gone": "missing video",
        }
        assert "skipped video/short.mp4: too short: 15 frames at 25 Hz, 21 are needed" in caplog.text
        assert "1 of 9 clips" in source.summary()

    def test_a_file_damaged_later_is_named(self, folder):
        path = folder.add("good", clock_frames(AT_25), AT_25)
        source = HuMoSet(folder.write(), **PLAIN)
        path.write_bytes(b"")
        with pytest.raises(BadSample, match="unreadable video"):
            source.clips([0])

    @pytest.mark.parametrize(
        ("change", "message"),
        [({"height": 40}, "multiples of 16"), ({"num_frames": 24}, r"4n \+ 1")],
    )
    def test_a_size_that_does_not_fit_the_model_is_refused(self, folder, change, message):
        with pytest.raises(ValueError, match=message):
            HuMoSet(folder.root, **(PLAIN | change))

    def test_a_folder_of_another_layout_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="video_caption.parquet"):
            HuMoSet(tmp_path, **PLAIN)


class TestColumns:
    def test_names_are_the_users(self, folder):
        folder.add("a", clock_frames(AT_25), AT_25)
        (row,) = folder.rows
        folder.rows = [{"clip": "a.mp4", "text": ["One.", "Two."], "faces": [row["reference_image"]]}]
        columns = Columns(video="clip", caption="text", references=("faces",))
        clips = HuMoSet(folder.write(), columns=columns, **PLAIN).clips([0])
        assert clips.captions == [["One.", "Two."]]

    def test_a_missing_column_is_named_with_those_there_are(self, folder):
        folder.add("a", clock_frames(AT_25), AT_25)
        with pytest.raises(ValueError, match=r"no column prompt.*reference_image, caption"):
            HuMoSet(folder.write(), columns=Columns(caption="prompt"), **PLAIN)


class TestIndex:
    def test_a_second_start_reads_no_video(self, folder, tmp_path, monkeypatch):
        folder.add("good", clock_frames(AT_25), AT_25)
        folder.add("short", clock_frames(AT_25[:9]), AT_25[:9])
        first = HuMoSet(folder.write(), index=tmp_path / "index.json", **PLAIN)
        monkeypatch.setattr(dataset_module, "inspect", None)
        second = HuMoSet(folder.root, index=tmp_path / "index.json", **PLAIN)
        assert second.names() == first.names()
        assert second.summary() == first.summary()
        assert second.keys([0]) == first.keys([0])

    def test_a_changed_file_is_read_again(self, folder, tmp_path):
        folder.add("a", clock_frames(AT_25[:9]), AT_25[:9])
        folder.add("b", clock_frames(AT_25), AT_25)
        HuMoSet(folder.write(), index=tmp_path / "index.json", **PLAIN)
        folder.add("a", clock_frames(AT_25), AT_25)
        assert len(HuMoSet(folder.root, index=tmp_path / "index.json", **PLAIN)) == 2

    def test_keys_change_with_contents_and_form(self, folder):
        folder.add("a", clock_frames(AT_25), AT_25)
        folder.add("b", clock_frames([t + 0.4 for t in AT_25]), AT_25)
        root = folder.write()
        keys = HuMoSet(root, **PLAIN).keys([0, 1])
        assert len({*keys, *HuMoSet(root, **(PLAIN | {"num_frames": 17})).keys([0, 1])}) == 4

    def test_a_file_that_is_no_index_is_refused(self, folder, tmp_path):
        folder.add("a", clock_frames(AT_25), AT_25)
        (tmp_path / "index.json").write_text("[]")
        with pytest.raises(ValueError, match="not an index"):
            HuMoSet(folder.write(), index=tmp_path / "index.json", **PLAIN)


class TestSource:
    def test_splits_share_nothing_and_hold_everything(self, folder):
        for name in "abcd":
            folder.add(name, clock_frames(AT_25), AT_25)
        source = HuMoSetSource(folder=str(folder.write()), faces="none", heldout=0.25)
        size = ClipSize(height=32, width=48, num_frames=21)
        parts = [source.open(split, None, size, torch.device("cpu")).names() for split in ("train", "heldout")]
        assert sorted(parts[0] + parts[1]) == [f"video/{name}.mp4" for name in "abcd"]
        assert len(parts[1]) == 1
        assert len(source.open("train", 2, size, torch.device("cpu"))) == 2
