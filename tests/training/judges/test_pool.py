"""The rendered pool: real renders reduced to what judges need."""

from __future__ import annotations

import torch

from training.judges.config import PoolConfig
from training.judges.networks import HEAT_STRIDE
from training.judges.pool import mask_centres, rendered_pool


def test_centres_of_masks() -> None:
    mask = torch.zeros(1, 2, 32, 32)
    mask[0, 0, 10:14, 20:24] = 1
    centres = mask_centres(mask)
    assert centres[0, 0].tolist() == [12.0, 22.0]
    assert centres[0, 1].tolist() == [16.0, 16.0], "an empty mask gives the middle"


def test_the_pool_is_rendered_once_and_knows_where_the_mouth_is() -> None:
    config = PoolConfig(clips=3, stills=5, utterances=3, height=64, width=64, num_frames=33, chunk=2)
    pool = rendered_pool(config, torch.device("cpu"))
    assert rendered_pool(config, torch.device("cpu")) is pool
    stills, clips = pool.stills, pool.clips
    assert stills.image_NCHW.shape == stills.reference_NCHW.shape == (5, 3, 64, 64)
    assert not torch.equal(stills.image_NCHW, stills.reference_NCHW)
    assert {len(values) for values in stills.attributes.values()} == {5}
    assert clips.video_NFCHW.shape == (3, 33, 3, 64, 64)
    assert clips.heat_NFHW.shape == (3, 33, 64 // HEAT_STRIDE, 64 // HEAT_STRIDE)
    assert clips.mel_NMT.shape == (3, 40, 132)
    assert clips.opening_NF.min() >= 0
    assert clips.opening_NF.max() <= 1
    assert clips.width_NF.min() >= 0
    assert clips.width_NF.max() <= 1
    heat = clips.heat_NFHW.float()
    rows = (heat.sum(3) * (torch.arange(16) + 0.5)).sum(2) / heat.sum((2, 3)).clamp(min=1e-6) * HEAT_STRIDE
    visible = heat.sum((2, 3)) > 1
    assert (rows - clips.centre_NF2[..., 0]).abs()[visible].max() < 6
