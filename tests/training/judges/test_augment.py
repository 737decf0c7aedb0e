"""Degradations: what they keep and what they change."""

from __future__ import annotations

import torch

from training.judges import augment


def images(count: int = 6) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_degradation_is_seeded_bounded_and_optional() -> None:
    x = images(32)
    once, again = (augment.degrade(x, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(once, again)
    assert once.shape == x.shape
    assert once.min() >= 0
    assert once.max() <= 1
    assert torch.allclose(augment.degrade(x, torch.Generator().manual_seed(3), strength=0.0), x, atol=1e-4)
    change = (once - x).abs().mean((1, 2, 3))
    assert (change < 1e-3).sum() >= 2, "some images stay clean"
    assert (change > 0.03).sum() >= 8, "many do not"


def test_smoothing_removes_detail_and_keeps_the_mean() -> None:
    x = images()
    strong = augment.smooth(x, torch.ones(6, 1, 1, 1))
    assert strong.std() < 0.5 * x.std()
    assert torch.allclose(strong.mean(), x.mean(), atol=0.01)
    assert torch.equal(augment.smooth(x, torch.zeros(6, 1, 1, 1)), x)


def test_block_quantisation_is_an_exact_transform_until_it_rounds() -> None:
    x = images()
    assert torch.allclose(augment.quantise_blocks(x, torch.zeros(6, 1, 1, 1)), x, atol=1e-5)
    coarse = augment.quantise_blocks(x, torch.full((6, 1, 1, 1), 0.5))
    assert 0.02 < (coarse - x).abs().mean() < 0.3
