"""Face masks on the latent grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from humo_rt.conditions import face_detector
from humo_rt.conditions.face import (
    DetectFaces,
    mask_to_latent_grid,
    read_face_mask,
    read_face_masks,
    with_reference_frames,
)
from humo_rt.media import VideoWriter
from tests.training.data.humoset_files import drawn_face


def test_a_cell_is_face_when_half_of_its_pixels_are():
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[0, :4, :8] = True  # half of the first cell
    mask[0, :4, 8:15] = True  # a little less than half of the second
    assert mask_to_latent_grid(mask).tolist() == [[[1.0, 0.0], [0.0, 0.0]]]


def test_latent_frames_stand_for_one_then_four_video_frames():
    mask = torch.zeros(9, 8, 8, dtype=torch.bool)
    mask[0] = True
    mask[1] = mask[2] = True  # two of the frames 1..4
    mask[5] = True  # one of the frames 5..8
    assert mask_to_latent_grid(mask).flatten().tolist() == [1.0, 1.0, 0.0]


def test_leading_dimensions_are_a_batch():
    mask = torch.rand(3, 5, 24, 16) > 0.5
    batch = mask_to_latent_grid(mask)
    assert batch.shape == (3, 2, 3, 2)
    assert torch.equal(batch[1], mask_to_latent_grid(mask[1]))


def test_sizes_without_a_grid_are_refused():
    with pytest.raises(ValueError, match="4 frames, 8x8"):
        mask_to_latent_grid(torch.zeros(4, 8, 8, dtype=torch.bool))


SIZE = {"num_frames": 5, "height": 32, "width": 48}


class TestUserMasks:
    def test_a_box_weighs_every_cell_by_its_share(self):
        weights = read_face_mask((0, 0, 12, 8), **SIZE)
        assert weights.shape == (2, 4, 6)
        assert weights[:, 0].tolist() == [[1.0, 0.5, 0.0, 0.0, 0.0, 0.0]] * 2
        assert not weights[:, 1:].any()

    @pytest.mark.parametrize("kind", [np.int64, np.float32])
    def test_numbers_of_numpy_make_a_box(self, kind):
        expected = read_face_mask((0, 0, 12, 8), **SIZE)
        assert torch.equal(read_face_mask(tuple(np.array([0, 0, 12, 8], kind)), **SIZE), expected)
        assert torch.equal(read_face_mask([list(np.array([0, 0, 12, 8], kind))], **SIZE), expected)

    def test_several_boxes_join(self):
        both = read_face_mask([(0, 0, 8, 8), (40, 24, 48, 32)], **SIZE)
        assert both.sum() == 4
        assert both[0, 0, 0] == both[0, 3, 5] == 1

    def test_image_array_and_video_agree(self, tmp_path):
        pixels = np.zeros((32, 48), np.uint8)
        pixels[8:16, 16:32] = 255
        Image.fromarray(pixels).save(tmp_path / "mask.png")
        expected = read_face_mask((16, 8, 32, 16), **SIZE)
        assert torch.equal(read_face_mask(tmp_path / "mask.png", **SIZE), expected)
        assert torch.equal(read_face_mask(pixels, **SIZE), expected)
        assert torch.equal(read_face_mask(np.stack([pixels] * 5), **SIZE), expected)
        assert torch.equal(read_face_mask(np.stack([pixels > 0] * 5), **SIZE), expected)
        assert torch.equal(read_face_mask(pixels > 0, **SIZE), expected)
        assert torch.equal(read_face_mask((pixels / 255).astype(np.float16), **SIZE), expected)
        tensor = torch.from_numpy(pixels)
        for mask in (tensor, tensor > 0, (tensor / 255).bfloat16(), torch.stack([tensor] * 5)):
            assert torch.equal(read_face_mask(mask, **SIZE), expected)

    def test_a_video_has_one_mask_for_each_frame(self, tmp_path):
        frames = np.zeros((5, 32, 48, 3), np.uint8)
        frames[0] = 255
        with VideoWriter(tmp_path / "mask.mp4", fps=25, width=48, height=32) as writer:
            writer.write(frames)
        weights = read_face_mask(tmp_path / "mask.mp4", **SIZE)
        assert weights[0].min() > 0.9
        assert weights[1].max() < 0.1

    def test_reference_frames_stay_as_without_a_mask(self):
        weights = with_reference_frames(read_face_mask((0, 0, 8, 8), **SIZE), 2)
        assert weights.shape == (4, 4, 6)
        assert (weights[2:] == 1).all()

    def test_each_speaker_has_a_mask_of_its_own(self):
        boxes = [(0, 0, 8, 8), (40, 24, 48, 32)]
        weights = read_face_masks(boxes, **SIZE)
        assert weights.shape == (2, 2, 4, 6)
        assert all(torch.equal(weights[p], read_face_mask(box, **SIZE)) for p, box in enumerate(boxes))
        with pytest.raises(ValueError, match="speaker 1: face mask is black everywhere"):
            read_face_masks([boxes[0], np.zeros((32, 48), np.uint8)], **SIZE)

    def test_the_silence_of_reference_frames_acts_once_whoever_speaks(self):
        weights = with_reference_frames(read_face_masks([(0, 0, 8, 8), (40, 24, 48, 32)], **SIZE), 2)
        assert weights.shape == (2, 4, 4, 6)
        assert (weights[0, 2:] == 1).all()
        assert not weights[1, 2:].any()

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (np.full((16, 48), 255, np.uint8), "face mask is 48x16, the video 48x32: resize"),
            (np.ones((9, 32, 48)), "face mask has 9 frames, the video 5"),
            (np.full((5, 32, 48), 2.0), "ranges from 2 to 2: scale it"),
            (np.zeros((32, 48), np.uint8), "black everywhere"),
            (np.ones((32, 48), np.uint8), "brightest pixel of the face mask is 1 of 255"),
            (Image.new("L", (48, 32), 1), "brightest pixel of the face mask is 1 of 255"),
            ([], r"face_masks \[\] holds no box"),
            (np.zeros((0, 32, 48), bool), r"face mask of shape \(0, 32, 48\) is empty"),
            (torch.zeros(0, 32, 48), r"face mask of shape \(0, 32, 48\) is empty"),
            ((1.1, 1.1, 1.3, 1.3), r"face box \(1.1, 1.1, 1.3, 1.3\) is smaller than a pixel"),
            (["a.png"], "another mask stands by itself, not in a list"),
            ((0, 0, 8), r"\(0, 0, 8\) is not \(left, top, right, bottom\)"),
            ((0, 0, 50, 8), r"does not lie in the 48x32 video: use 0 <= left < right <= 48"),
            ((8, 0, 8, 8), "does not lie in"),
            (["a", "b"], "'a' is not"),
            ("missing.png", "does not exist"),
            ("missing.mp4", "does not exist"),
            ("detect", "'detect' names no picture: write detect:FILE"),
            ("detect:", "names no picture"),
        ],
    )
    def test_a_mask_that_cannot_be_used_is_refused(self, source, message):
        with pytest.raises(ValueError, match=message):
            read_face_mask(source, **SIZE)


class TestDetectedFaces:
    @pytest.fixture(autouse=True)
    def found(self, monkeypatch):
        """A detector that takes bright pixels for a face, in boxes around all of them."""
        monkeypatch.setattr(face_detector, "require_detector", lambda: None)
        monkeypatch.setattr(face_detector, "_search", self.bright)

    @staticmethod
    def bright(frame_HWC: np.ndarray) -> list[tuple[int, int, int, int]]:
        y, x = np.nonzero(frame_HWC[..., 0] > 128)
        return [(int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1)] if len(x) else []

    @pytest.fixture
    def frames(self) -> np.ndarray:
        frames = np.zeros((17, 32, 48, 3), np.uint8)
        frames[:9, 8:24, 8:32] = 255  # gone from the tenth frame on
        return frames

    def test_in_a_picture_for_all_frames(self, frames, tmp_path):
        Image.fromarray(frames[0]).save(tmp_path / "start.png")
        weights = read_face_mask(DetectFaces(tmp_path / "start.png"), **SIZE)
        assert weights[0, 1:3, 1:4].min() > 0
        assert weights[0, 0].max() == weights[0, 3].max() == 0
        assert torch.equal(weights[0], weights[1])
        assert torch.equal(read_face_mask(f"detect:{tmp_path / 'start.png'}", **SIZE), weights)
        assert torch.equal(read_face_mask(DetectFaces(frames[0]), **SIZE), weights)

    def test_in_an_earlier_video_frame_by_frame_the_nearest_standing_in_for_none(self, frames, tmp_path):
        moved = np.roll(frames, 16, axis=2)
        moved[:8] = frames[:8]
        weights = read_face_mask(DetectFaces(moved), num_frames=17, height=32, width=48)
        assert weights.shape == (5, 4, 6)
        assert weights[0, 1, 1] > 0
        assert weights[-1].any()
        with VideoWriter(tmp_path / "draft.mp4", fps=25, width=48, height=32) as writer:
            writer.write(frames)
        from_file = read_face_mask(f"detect:{tmp_path / 'draft.mp4'}", num_frames=17, height=32, width=48)
        assert (from_file - read_face_mask(DetectFaces(frames), num_frames=17, height=32, width=48)).abs().max() < 0.3

    def test_what_cannot_be_used_is_refused(self, frames):
        with pytest.raises(ValueError, match="no face is found in <image of 48x32>: give a mask"):
            read_face_mask(DetectFaces(np.zeros((32, 48, 3), np.uint8)), **SIZE)
        with pytest.raises(ValueError, match="face mask is 48x32, the video 96x64"):
            read_face_mask(DetectFaces(frames[0]), num_frames=5, height=64, width=96)
        with pytest.raises(ValueError, match="face mask has 17 frames, the video 5"):
            read_face_mask(DetectFaces(frames), **SIZE)
        with pytest.raises(ValueError, match=r"frames \(17, 32, 48, 3\) of float64 have no faces"):
            read_face_mask(DetectFaces(frames / 255), **SIZE)


def test_a_drawn_face_is_found():
    pytest.importorskip("cv2", reason="the face detector is an extra: pip install 'humo-rt[face]'")
    weights = read_face_mask(DetectFaces(drawn_face(128, 160, 60, 25, 64)), num_frames=5, height=128, width=160)
    assert weights[0, 7, 11] == 1
    assert weights[:, :, :6].max() == 0
