"""The metrics on signals whose answer is known."""

from __future__ import annotations

import pytest
import torch

from training.evaluation import metrics


def tracks(clips: int = 24, frames: int = 97, seed: int = 0) -> torch.Tensor:
    """Independent random tracks as smooth as a talking mouth, in 0..1."""
    noise = torch.randn(clips, 1, frames + 8, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool1d(noise, 5, 1)[:, 0, :frames]
    return (smooth * 0.5 + 0.4).clamp(0, 1)


def delayed(track: torch.Tensor, lag: int) -> torch.Tensor:
    """What a picture ``lag`` frames behind the sound shows."""
    return track.roll(lag, -1)


def test_pearson_is_invariant_to_scale_and_zero_for_constants() -> None:
    a = tracks(4)
    assert torch.allclose(metrics.pearson(a, 3 * a + 1), torch.ones(4, dtype=torch.float64))
    assert torch.allclose(metrics.pearson(a, -a), -torch.ones(4, dtype=torch.float64))
    assert metrics.pearson(a, torch.zeros_like(a)).abs().max() == 0


@pytest.mark.parametrize("lag", [-4, -1, 0, 2, 5])
def test_the_common_lag_is_found_and_signed(lag: int) -> None:
    true = tracks()
    noisy = delayed(true, lag) + 0.1 * torch.randn(true.shape, generator=torch.Generator().manual_seed(1))
    found = metrics.track_score(noisy, true)
    assert found.lag == lag
    assert found.correlation > 0.8


def test_one_lag_for_all_keeps_unrelated_tracks_near_zero() -> None:
    score = metrics.track_score(tracks(seed=1), tracks(seed=2))
    assert abs(score.correlation) < 0.1
    assert abs(score.control) < 0.03


def test_the_control_pairs_every_track_with_all_others() -> None:
    true = tracks()
    score = metrics.track_score(true, true)
    assert score.correlation == pytest.approx(1.0)
    assert abs(score.control) < 0.05


def test_clips_of_one_group_are_no_control_for_each_other() -> None:
    true = tracks(6).repeat_interleave(3, 0)
    group = torch.arange(6).repeat_interleave(3)
    apart = metrics.track_score(true, true, lag=0, group_B=group)
    mixed = metrics.track_score(true, true, lag=0)
    assert mixed.control > apart.control + 0.05
    assert abs(apart.control) < 0.1


def test_near_silent_clips_are_left_out() -> None:
    true = tracks(6)
    true[2:4] = 0.01
    score = metrics.track_score(true.clone(), true, lag=0)
    assert (score.clips, score.skipped) == (4, 2)
    with pytest.raises(ValueError, match="no clip has a moving true track"):
        metrics.track_score(true, torch.zeros_like(true))


def test_sync_distance_is_smallest_where_picture_and_sound_match() -> None:
    generator = torch.Generator().manual_seed(0)
    sound = torch.nn.functional.normalize(torch.randn(3, 60, 16, generator=generator), dim=-1)
    late = sound.roll(2, dims=1)
    distances = metrics.sync_distances(late, sound, max_lag=6)
    assert distances.shape == (3, 13)
    score = metrics.sync_score(distances)
    assert score.lag == 2
    assert score.within_one == 0
    assert score.distance < 0.01
    assert score.confidence > 1.0
    chance = metrics.sync_score(metrics.sync_distances(late, sound.roll(1, 0), max_lag=6))
    assert chance.confidence < 0.3


def test_retrieval_is_perfect_for_copies_and_chance_for_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    gallery = torch.randn(40, 32, generator=generator)
    identity = torch.arange(40)
    assert metrics.retrieval_accuracy(gallery + 0.01, gallery, identity) == 1.0
    noise = metrics.retrieval_accuracy(torch.randn(40, 32, generator=generator), gallery, identity)
    assert noise < 0.3
    with pytest.raises(ValueError, match="4 people"):
        metrics.retrieval_accuracy(gallery[:4], gallery[:4], identity[:4])


def test_rivals_never_include_the_same_person() -> None:
    gallery = torch.eye(10).repeat(2, 1)
    identity = torch.arange(10).repeat(2)
    assert metrics.retrieval_accuracy(gallery, gallery, identity) == 1.0


def test_closed_rate_and_psnr() -> None:
    assert metrics.closed_rate(torch.tensor([[0.0, 0.1, 0.5, 0.9]])) == 0.5
    video = torch.full((2, 3, 3, 8, 8), 100, dtype=torch.uint8)
    assert metrics.psnr(video, video + 5) == pytest.approx(34.15, abs=0.01)


def test_clips_too_short_to_be_shifted_are_named():
    with pytest.raises(ValueError, match="10 windows cannot be shifted by 15 frames"):
        metrics.sync_distances(torch.zeros(2, 10, 4), torch.zeros(2, 10, 4))
