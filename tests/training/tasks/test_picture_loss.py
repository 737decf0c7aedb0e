from __future__ import annotations

import pytest
import torch

from training.tasks.picture_loss import PictureLossConfig, attention, picture_loss, psnr

CONFIG = PictureLossConfig()


def _masks() -> tuple[torch.Tensor, torch.Tensor]:
    face, mouth = torch.zeros(2, 3, 32, 32, dtype=torch.bool), torch.zeros(2, 3, 32, 32, dtype=torch.bool)
    face[:, :, 4:28, 8:24] = True
    mouth[:, :, 20:22, 14:18] = True
    return face, mouth


def test_attention_rises_from_background_over_face_to_mouth():
    weight = attention(*_masks(), CONFIG)
    assert weight.mean(dim=(1, 2, 3)).tolist() == pytest.approx([1.0, 1.0])
    assert weight[0, 0, 0, 0] < weight[0, 0, 6, 10] < weight[0, 0, 21, 15]
    assert weight[0, 0, 18, 12] == weight[0, 0, 21, 15]  # the margin counts too


def test_an_error_in_the_mouth_costs_more_than_elsewhere():
    true = torch.zeros(2, 3, 3, 32, 32)
    weight = attention(*_masks(), CONFIG)
    costs = []
    for row in (1, 20):
        made = true.clone()
        made[:, :, :, row : row + 2, 14:18] = 0.5
        costs.append(float(picture_loss(made, true, weight, CONFIG)))
    assert costs[1] > 4 * costs[0]
    assert picture_loss(true, true, weight, CONFIG) == 0


def test_a_still_mouth_costs_more_than_the_same_error_that_moves_along():
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(1, 3, 4, 16, 16, generator=generator)
    constant = picture_loss(true + 0.1, true, None, CONFIG)
    flicker = torch.tensor([0.1, -0.1, 0.1, -0.1]).view(1, 1, 4, 1, 1)
    assert picture_loss(true + flicker, true, None, CONFIG) > 1.5 * constant


def test_single_frames_have_no_motion_to_miss():
    assert torch.isfinite(picture_loss(torch.ones(1, 3, 1, 8, 8), torch.zeros(1, 3, 1, 8, 8), None, CONFIG))


def test_psnr_counts_decibels_of_the_full_range():
    true = torch.zeros(2, 3, 1, 8, 8)
    assert psnr(true + 0.2, true).tolist() == pytest.approx([20.0, 20.0], abs=1e-3)
