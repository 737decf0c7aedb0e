from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.training.tasks.moving_mouths import MovingMouths
from training.tasks.pixel_pool import PixelPool
from training.tasks.sources import ClipSize

CPU = torch.device("cpu")
SIZE = ClipSize(height=48, width=32, num_frames=13)


@pytest.fixture(scope="module")
def pool() -> PixelPool:
    return PixelPool.fill(MovingMouths(40, SIZE), CPU)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_clip_is_taken_once_and_comes_back_whole(pool):
    clips = MovingMouths(40, SIZE).clips(range(40))
    assert torch.equal(pool.video_NFCHW, clips.video_BFCHW)
    whole = pool.whole(33, 2)
    assert whole.video_BCFHW.shape == (2, 3, 13, 48, 32)
    assert torch.equal(whole.mouth_BFHW, clips.mouth_BFHW[33:35])
    assert whole.face_BFHW.all()
    expected = clips.video_BFCHW[33:35].transpose(1, 2)
    assert torch.equal(((whole.video_BCFHW + 1) * 127.5).round().to(torch.uint8), expected)


@pytest.mark.parametrize("side", [None, 24])
def test_masks_stay_on_the_mouth_however_it_is_cut(pool, side):
    cutting = pool.cut(8, 5, side, _generator())
    shape = (8, 5, 48, 32) if side is None else (8, 5, 24, 24)
    assert cutting.mouth_BFHW.shape == shape
    assert cutting.video_BCFHW.shape == (8, 3, *shape[1:])
    dark = cutting.video_BCFHW.amax(dim=1) < -0.7
    assert torch.equal(dark, cutting.mouth_BFHW)


def test_squares_contain_the_mouth(pool):
    cutting = pool.cut(64, 1, 24, _generator(1))
    assert cutting.mouth_BFHW.flatten(1).any(dim=1).all()


def test_some_cuts_are_mirrored(pool):
    lopsided = replace(pool, video_NFCHW=pool.video_NFCHW * (torch.arange(32) < 16))
    left = lopsided.cut(32, 1, None, _generator()).video_BCFHW[..., 0].flatten(1).mean(dim=1) > -1
    assert 4 < int(left.sum()) < 28


def test_sources_without_masks_mark_nothing():
    class Bare(MovingMouths):
        def clips(self, indices):
            return replace(super().clips(indices), face_BFHW=None, mouth_BFHW=None)

    pool = PixelPool.fill(Bare(2, SIZE), CPU)
    assert not pool.region_NFHW.any()
    assert pool.cut(4, 5, 24, _generator()).video_BCFHW.shape == (4, 3, 5, 24, 24)


def test_stills_are_references_as_one_frame_videos(pool):
    stills = pool.stills(3, _generator())
    assert stills.video_BCFHW.shape == (3, 3, 1, 48, 32)
    assert stills.video_BCFHW.abs().max() <= 1
    assert not stills.mouth_BFHW.any()
