from __future__ import annotations

import pytest
import torch

from training.audio_augment import AugmentConfig, add_room, at_snr, augment, coloured_noise

NOTHING = AugmentConfig(
    filter_share=0, throat_share=0, muffle_share=0, room_share=0, noise_share=0, babble_share=0, gain_db=(0.0, 0.0)
)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def sound() -> torch.Tensor:
    time = torch.arange(8000) / 16000
    return torch.stack([0.3 * torch.sin(2 * torch.pi * f * time) for f in (200.0, 440.0, 900.0)])


def test_with_every_change_off_the_sound_stays(sound):
    torch.testing.assert_close(augment(sound, NOTHING, _generator()), sound, atol=1e-5, rtol=0)


def test_changes_are_a_function_of_the_generator(sound):
    first, again, other = (augment(sound, AugmentConfig(), _generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.abs().max() <= 1
    assert torch.isfinite(first).all()


def test_silence_stays_silent():
    assert augment(torch.zeros(2, 4000), AugmentConfig(), _generator()).abs().max() == 0


def test_noise_is_added_at_the_level_asked_for(sound):
    noise = coloured_noise(sound.shape, _generator())
    torch.testing.assert_close(noise.square().mean(1), torch.ones(3), atol=1e-4, rtol=0)
    scaled = at_snr(sound, noise, torch.tensor([0.0, 10.0, 20.0]))
    ratio_db = 10 * torch.log10(sound.square().mean(1) / scaled.square().mean(1))
    torch.testing.assert_close(ratio_db, torch.tensor([0.0, 10.0, 20.0]), atol=1e-3, rtol=0)


def test_a_room_answers_after_the_sound_and_not_before():
    click = torch.zeros(1, 8000)
    click[0, 4000] = 1.0
    heard = add_room(click, _generator())
    assert heard[0, :4000].abs().max() < 1e-5
    assert heard[0, 4000] == pytest.approx(1.0, abs=1e-5)
    assert heard[0, 4001:6000].abs().max() > 1e-4
