"""Face masks on the latent grid."""

from __future__ import annotations

import pytest
import torch

from humo_rt.conditions.face import mask_to_latent_grid


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
