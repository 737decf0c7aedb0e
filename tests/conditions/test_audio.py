"""Audio features against the published pipeline's numbers, and Whisper of any length."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from humo_rt.conditions import audio
from humo_rt.conditions.audio import (
    AudioConditioner,
    append_reference_frames,
    log_mel,
    num_audio_frames,
    pool_bands,
    resample_to_25hz,
    window_audio,
    window_index,
)
from tests.golden_data import case, case_ids, load_group, recipe_input

SECOND = 16_000


@pytest.fixture(scope="module")
def conditioner() -> AudioConditioner:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    torch.manual_seed(0)
    config = WhisperConfig(d_model=16, encoder_layers=4, encoder_attention_heads=2, encoder_ffn_dim=32, num_mel_bins=80)
    return AudioConditioner(WhisperEncoder(config).eval())


def bands_at_25hz(hidden: torch.Tensor) -> torch.Tensor:
    return resample_to_25hz(pool_bands(hidden))


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * SECOND)) / SECOND
    tone = np.sin(2 * np.pi * (200 + 40 * np.sin(2 * np.pi * 3 * time)) * time)
    return (0.3 * tone + 0.02 * rng.standard_normal(len(time))).astype(np.float32)


@pytest.mark.parametrize("case_id", case_ids("audio", "enc"))
def test_bands_agree_with_the_release(case_id):
    expected = load_group("audio")[1][f"enc.{case_id}.out"]
    hidden = recipe_input(case("audio", case_id, "enc")["hidden"])
    torch.testing.assert_close(bands_at_25hz(hidden)[0], expected, atol=2e-6, rtol=0)


def test_every_length_agrees_with_the_release():
    for states, frames in load_group("audio")[1]["enc.length_table"].T.tolist():
        if frames:
            assert bands_at_25hz(torch.zeros(states, 5, 1)).shape[0] == frames
        if states % 2 == 0:
            assert num_audio_frames(states // 2 * 640 + 639) == frames


@pytest.mark.parametrize("case_id", case_ids("audio", "windows"))
def test_windows_agree_with_the_release(case_id):
    tensors = load_group("audio")[1]
    entry = case("audio", case_id, "windows")
    embeds = recipe_input(entry["emb"])
    windows = window_audio(embeds, entry["n_windows"], entry["frame0_idx"])
    assert torch.equal(windows, tensors[f"win.{case_id}.out"])
    batch = window_audio(torch.stack([embeds, embeds.flip(0)]), entry["n_windows"], entry["frame0_idx"])
    assert torch.equal(batch[0], windows)
    if case_id != "full":
        index = window_index(entry["n_windows"], entry["audio_frames"], entry["frame0_idx"])
        assert torch.equal(index, tensors[f"win.{case_id}.index"])


@pytest.mark.parametrize("case_id", case_ids("prep"))
def test_a_complete_run_agrees_with_the_release(case_id):
    entry = case("prep", case_id)
    if "audio_hidden" in entry:
        embeds = bands_at_25hz(recipe_input(entry["audio_hidden"]))[0]
    else:
        embeds = torch.zeros(entry["frame_num_used"], 5, 1280)
    windows = window_audio(embeds, (entry["frame_num_used"] - 1) // 4 + 1)
    windows = append_reference_frames(windows, entry["nref"])
    assert list(windows.shape) == entry["audio_shape"]
    assert [t for t, frame in enumerate(windows) if not frame.any()] == entry["audio_zero_frames"]
    expected = load_group("prep")[1][f"{case_id}.audio_every8th_channel"]
    torch.testing.assert_close(windows[..., ::8], expected, atol=2e-6, rtol=0)


def test_windows_of_no_audio_are_zeros():
    assert not window_audio(torch.ones(0, 5, 3), 4).any()


def test_bands_need_a_multiple_of_four_layers():
    with pytest.raises(ValueError, match=r"6 audio encoder layers.*multiple of 4"):
        pool_bands(torch.zeros(10, 7, 2))


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("seconds", [0.5, 3.88, 29.99, 30.0])
def test_log_mel_equals_the_feature_extractor(mels, seconds):
    from transformers import WhisperFeatureExtractor

    samples = np.stack([sound(seconds), 1e-3 * sound(seconds, seed=1)])
    samples[1, : len(samples[1]) // 2] = 0
    expected = WhisperFeatureExtractor(feature_size=mels)(
        list(samples), sampling_rate=SECOND, return_tensors="pt"
    ).input_features
    torch.testing.assert_close(log_mel(torch.from_numpy(samples), mels), expected, atol=1e-4, rtol=0)


def test_the_states_are_the_embedding_the_layers_and_the_final_norm(conditioner):
    encoder = conditioner.encoder
    mel = torch.randn(1, 80, 3000)
    with torch.no_grad():
        states = [encoder.conv1(mel)]
        states = [torch.nn.functional.gelu(encoder.conv2(torch.nn.functional.gelu(states[0]))).transpose(1, 2)]
        states[0] = states[0] + encoder.embed_positions.weight
        for layer in encoder.layers:
            states.append(layer(states[-1], None))
        states[-1] = encoder.layer_norm(states[-1])
        bands = conditioner._bands(mel)
    assert bands.shape == (1, 1500, 5, 16)
    for band, state in enumerate(states):
        torch.testing.assert_close(bands[:, :, band], state, atol=1e-5, rtol=0)


def test_long_sound_goes_through_whisper_in_chunks_of_30_seconds(conditioner):
    samples = sound(31.0)
    embeds = conditioner.embed(samples)
    assert embeds.shape == (num_audio_frames(len(samples)), 5, 16) == (775, 5, 16)
    # Away from the seam the interpolation is the only difference to the first chunk alone: same positions, other scale.
    first = conditioner.embed(samples[: audio.CHUNK_SAMPLES])
    torch.testing.assert_close(embeds[0], first[0], atol=1e-5, rtol=0)
    last = conditioner._bands(conditioner._extract_mel(samples[audio.CHUNK_SAMPLES :]))[0, 49]
    torch.testing.assert_close(embeds[-1], last, atol=1e-5, rtol=0)


def test_training_features_equal_inference_features(conditioner):
    samples = torch.from_numpy(np.stack([sound(3.88), sound(3.88, seed=3)]))
    batch = conditioner.embed_batch(samples)
    assert batch.shape == (2, 97, 5, 16)
    assert batch.dtype == torch.float32
    for row, clip in zip(batch, samples, strict=True):
        torch.testing.assert_close(row, conditioner.embed(clip), atol=1e-3, rtol=0)


def test_half_precision_encoders_return_float32(conditioner):
    import copy

    half = AudioConditioner(copy.deepcopy(conditioner.encoder).bfloat16())
    assert half.embed(sound(0.2)).dtype == torch.float32


def test_unusable_sound_is_refused(conditioner):
    with pytest.raises(ValueError, match="639 samples"):
        conditioner.embed(np.zeros(639, np.float32))
    with pytest.raises(ValueError, match="not one channel"):
        conditioner.embed(np.zeros((2, 16_000), np.float32))
