"""Formulas of the losses against arithmetic written out."""

from __future__ import annotations

import math

import pytest
import torch

from training import losses


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_sigmas_are_logit_normal():
    sigmas = losses.draw_sigmas(200_000, generator())
    logits = torch.logit(sigmas.double())
    assert logits.mean().abs() < 0.01
    assert abs(logits.std() - 1.0) < 0.01


def test_shift_moves_sigmas_as_the_sampler_does():
    plain = losses.draw_sigmas(100, generator())
    shifted = losses.draw_sigmas(100, generator(), shift=3.0)
    torch.testing.assert_close(shifted, 3.0 * plain / (1.0 + 2.0 * plain))


def test_path_ends_at_clean_and_noise():
    clean, noise = torch.randn(2, 4, 3, 2, 2), torch.randn(2, 4, 3, 2, 2)
    mixed = losses.add_noise(clean, noise, torch.tensor([0.0, 1.0]))
    assert torch.equal(mixed[0], clean[0])
    assert torch.equal(mixed[1], noise[1])


def test_velocity_loss_ignores_reference_frames():
    clean, noise = torch.randn(2, 4, 3, 2, 2), torch.randn(2, 4, 3, 2, 2)
    velocity = torch.cat([noise - clean, torch.full((2, 4, 1, 2, 2), 100.0)], dim=2)
    assert losses.velocity_loss(velocity, clean, noise).abs().max() < 1e-12
    off = velocity.clone()
    off[1, :, :3] += 2.0
    torch.testing.assert_close(losses.velocity_loss(off, clean, noise), torch.tensor([0.0, 4.0]))


def test_emphasis_weighs_marked_cells():
    clean, noise = torch.zeros(1, 1, 1, 1, 2), torch.zeros(1, 1, 1, 1, 2)
    velocity = torch.tensor([1.0, 2.0]).view(1, 1, 1, 1, 2)
    marked = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    plain = losses.velocity_loss(velocity, clean, noise, emphasis_BTHW=marked)
    heavy = losses.velocity_loss(velocity, clean, noise, emphasis_BTHW=marked, emphasis=3.0)
    assert plain.item() == pytest.approx((1 + 4) / 2)
    assert heavy.item() == pytest.approx((1 + 4 * 4) / 2)


def test_mask_loss_weighs_by_the_inverse_of_the_face_area():
    mask = torch.zeros(1, 2, 4, 4)
    mask[0, 0, :2, :2] = 1  # a quarter of frame 0, all of frame 1
    mask[0, 1] = 1
    logits = torch.full((1, 3, 4, 4), 0.7)
    on, off = math.log1p(math.exp(-0.7)), math.log1p(math.exp(0.7))
    frame_0 = 16 / 4 * (4 * on + 12 * off) / 16
    assert losses.mask_loss(logits, mask).item() == pytest.approx((frame_0 + on) / 2, rel=1e-6)


def test_a_frame_without_a_face_counts_once():
    loss = losses.mask_loss(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))
    assert loss.item() == pytest.approx(math.log(2))


def test_mask_iou():
    mask = torch.zeros(2, 1, 2, 2)
    mask[0, 0, 0] = 1
    logits = torch.full((2, 2, 2, 2), -1.0)
    logits[0, 0, :, 0] = 1
    torch.testing.assert_close(losses.mask_iou(logits, mask), torch.tensor([1 / 3, 1.0]))
