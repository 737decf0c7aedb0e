"""The share of sync samples over stage 2."""

from __future__ import annotations

import pytest
import torch

from training.curriculum import Curriculum
from training.task import Moment


def test_share_rises_from_a_fifth_to_a_half():
    shares = [Curriculum().share(progress) for progress in (-1.0, 0.0, 0.5, 1.0, 2.0)]
    assert shares == pytest.approx([0.2, 0.2, 0.35, 0.5, 0.5])
    assert Curriculum(shape="cosine").share(0.5) == pytest.approx(0.35)
    assert Curriculum(shape="cosine").share(0.25) < 0.275


def test_choices_follow_the_share_and_the_moment_only():
    curriculum = Curriculum()
    for progress, expected in ((0.0, 0.2), (1.0, 0.5)):
        moments = [Moment(seed=3, step=i, index=i, progress=progress) for i in range(100)]
        drawn = torch.stack([curriculum.is_sync(moment, 64) for moment in moments])
        again = torch.stack([curriculum.is_sync(moment, 64) for moment in moments])
        assert torch.equal(drawn, again)
        assert drawn.float().mean().item() == pytest.approx(expected, abs=0.02)


def test_a_sample_once_sync_stays_sync_as_the_share_grows():
    early = Curriculum().is_sync(Moment(seed=0, step=5, index=5, progress=0.1), 256)
    late = Curriculum().is_sync(Moment(seed=0, step=5, index=5, progress=0.9), 256)
    assert (late | ~early).all()
    assert late.sum() > early.sum()


def test_shares_outside_0_and_1_are_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        Curriculum(end=1.5)
