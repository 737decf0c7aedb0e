from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.training.tasks.moving_mouths import MovingMouths
from training.tasks.mouth_reading import mouth_survival
from training.tasks.sources import ClipSize


def _clips() -> tuple[torch.Tensor, torch.Tensor]:
    clips = MovingMouths(4, ClipSize(height=64, width=64, num_frames=49)).clips(range(4))
    return clips.video_BFCHW.transpose(1, 2).float() / 127.5 - 1, clips.mouth_BFHW


def test_true_frames_are_read_well():
    video, mouth = _clips()
    true, made = mouth_survival(video, video, mouth)
    assert true.min() > 0.97
    assert torch.equal(true, made)


def test_half_precision_around_the_call_changes_nothing():
    video, mouth = _clips()
    expected = mouth_survival(video, video, mouth)[1]
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(mouth_survival(video, video.bfloat16(), mouth)[1], expected, atol=0.01, rtol=0)


def test_a_mouth_that_stays_shut_does_not_survive():
    video, mouth = _clips()
    generator = torch.Generator().manual_seed(0)
    frozen = video[:, :, :1].expand_as(video) + 0.02 * torch.randn(video.shape, generator=generator)
    _, made = mouth_survival(video, frozen, mouth)
    assert made.mean().abs() < 0.4


def test_a_mouth_of_another_time_does_not_survive():
    video, mouth = _clips()
    _, made = mouth_survival(video, video.roll(5, dims=2), mouth)
    assert made.mean() < 0.5


def test_a_little_blur_is_survived():
    video, mouth = _clips()
    blurred = F.avg_pool3d(video, (1, 5, 5), stride=1, padding=(0, 2, 2), count_include_pad=False)
    _, made = mouth_survival(video, blurred, mouth)
    assert made.min() > 0.9
