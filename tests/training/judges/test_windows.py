"""Mouth crops and sound windows show the same moment."""

from __future__ import annotations

import torch

from training.judges.networks import MEL_PER_FRAME, MELS, MOUTH_CROP
from training.judges.windows import crop_windows, log_mel, mel_windows, smooth_centres


def test_crops_take_the_frames_and_pixels_around_the_mouth() -> None:
    video = torch.zeros(2, 20, 3, 128, 128, dtype=torch.uint8)
    video[1, 10, 0, 70, 60] = 255
    middle = torch.tensor([[10, 12]])
    centre = torch.tensor([[[70.0, 60.0], [72.0, 60.0]]])
    crops = crop_windows(video, torch.tensor([1]), middle, centre)
    assert crops.shape == (1, 2, 15, MOUTH_CROP, MOUTH_CROP)
    half = MOUTH_CROP // 2
    assert crops[0, 0].nonzero().tolist() == [[2 * 3, half, half]]
    assert crops[0, 1].nonzero().tolist() == [[0, half - 2, half]]


def test_crops_at_the_border_repeat_the_edge() -> None:
    video = torch.randint(0, 255, (1, 3, 3, 64, 64), dtype=torch.uint8)
    crops = crop_windows(video, torch.tensor([0]), torch.tensor([[0]]), torch.tensor([[[0.0, 0.0]]]))
    assert torch.equal(crops[0, 0, :3], crops[0, 0, 6:9]), "frames before the first repeat it"
    assert torch.equal(crops[0, 0, :, 0], crops[0, 0, :, MOUTH_CROP // 2])


def test_mel_has_four_frames_per_video_frame_and_hears_when_and_how_high() -> None:
    time = torch.arange(16_000) / 16_000
    sound = torch.zeros(2, 16_000)
    sound[0, 8_000:] = 0.3 * torch.sin(2 * torch.pi * 300 * time[8_000:])
    sound[1] = 0.3 * torch.sin(2 * torch.pi * 3000 * time)
    mel = log_mel(sound, 25)
    assert mel.shape == (2, MELS, 25 * MEL_PER_FRAME)
    assert mel[0, :, :45].max() <= -0.99
    assert mel[0, :, 60:].max() > 0.3
    assert mel[0, :, 80].argmax() < 12 < mel[1, :, 80].argmax()
    assert log_mel(sound[:, :100], 25).shape == mel.shape


def test_mel_windows_are_centred_on_their_frame() -> None:
    mel = torch.arange(100.0).expand(1, MELS, 100)
    cut = mel_windows(mel, torch.tensor([[10, 2, 0]]))
    assert cut.shape == (1, 3, MELS, 20)
    assert cut[0, 0, 0].tolist() == list(range(32, 52))
    assert cut[0, 1, 0].tolist() == list(range(20))
    assert cut[0, 2, 0, :9].tolist() == [0] * 8 + [0 + 0.0] or cut[0, 2, 0, 8] == 0


def test_centres_follow_the_head_not_the_lips() -> None:
    centre = torch.zeros(1, 60, 2)
    centre[0, ::2, 0] = 4.0
    smooth = smooth_centres(centre)
    assert smooth.shape == centre.shape
    assert smooth[0, 10:50, 0].std() < 0.2
