"""The channels-last decoder on the CPU: the published numbers, pieces, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from humo_rt.config import VAEConfig, preset
from humo_rt.kernels import registry
from humo_rt.model.vae import VideoVAE
from humo_rt.runtime.channels_last_vae import (
    ChannelsLastVAE,
    channels_last_pays,
    unsuited,
    use_channels_last,
    use_plain,
)
from tests.golden_data import case, case_ids, load_group, load_json, recipe_input, recipe_weights

ATOL = 2e-5
SMALL = VAEConfig(base_dim=16, num_res_blocks=1)


@pytest.fixture(scope="module")
def golden_vae() -> VideoVAE:
    settings, _ = load_group("vae")
    names = load_json("vae_keymap_diffusers")["map"]
    vae = VideoVAE(VAEConfig(base_dim=settings["config"]["dim"])).eval()
    vae.autoencoder.load_state_dict({names[k]: v for k, v in recipe_weights(settings["weights"]).items()})
    return use_channels_last(vae)


@pytest.fixture
def vae() -> VideoVAE:
    torch.manual_seed(0)
    return VideoVAE(SMALL).eval()


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("case_id", case_ids("vae", "decode"))
def test_decode_computes_the_published_numbers(golden_vae, case_id, chunk):
    _, tensors = load_group("vae")
    latents = recipe_input(case("vae", case_id, "decode")["latent"])[None]
    with torch.no_grad():
        decoded = golden_vae.decode(latents, chunk=chunk)[0]
    torch.testing.assert_close(decoded, tensors[f"dec.{case_id}.out_unclamped"], atol=ATOL, rtol=0)


@torch.no_grad()
def test_pieces_of_any_size_agree_with_the_plain_decoder(vae):
    latents = torch.randn(2, 16, 6, 4, 3)
    plain = vae.decode(latents)
    use_channels_last(vae)
    for chunk in (1, 2, 3, 5):
        torch.testing.assert_close(vae.decode(latents, chunk=chunk), plain, atol=ATOL, rtol=0)
    blocks = list(vae.decode_chunks(latents, 2))
    assert [block.shape[2] for block in blocks] == [1, 8, 8, 4]
    torch.testing.assert_close(torch.cat(blocks, dim=2), plain.clamp(-1, 1), atol=ATOL, rtol=0)


@torch.no_grad()
def test_two_videos_can_be_decoded_at_once(vae):
    use_channels_last(vae)
    latents = torch.randn(2, 1, 16, 3, 2, 2)
    one, other = (vae.decode_chunks(z, 1) for z in latents)
    blocks = list(zip(one, other, strict=True))
    for i in range(2):
        expected = torch.cat(list(vae.decode_chunks(latents[i], 1)), dim=2)
        assert torch.equal(torch.cat([pair[i] for pair in blocks], dim=2), expected)


@torch.no_grad()
def test_the_plain_decoder_comes_back(vae):
    latents, names = torch.randn(1, 16, 2, 2, 2), list(vae.state_dict())
    plain = vae.decode(latents)
    assert isinstance(use_channels_last(vae), ChannelsLastVAE)
    assert list(vae.state_dict()) == names
    assert type(use_plain(use_plain(vae))) is VideoVAE
    assert torch.equal(vae.decode(latents), plain)


@torch.no_grad()
def test_folded_pixels_and_shortcuts_around_resolutions():
    torch.manual_seed(0)
    vae = VideoVAE(preset("nano").vae).eval()
    latents = torch.randn(1, 16, 4, 2, 3)
    plain = vae.decode(latents)
    use_channels_last(vae)
    for chunk in (None, 1, 2):
        torch.testing.assert_close(vae.decode(latents, chunk=chunk), plain, atol=ATOL, rtol=0)


def test_published_decoders_are_covered_and_others_say_why_not():
    assert unsuited(preset("humo-1.7b").vae) is unsuited(preset("nano").vae) is None
    with pytest.raises(ValueError, match=r"channels \[8, 16, 32, 32\] are not multiples of 16"):
        use_channels_last(VideoVAE(VAEConfig(base_dim=8, num_res_blocks=1)))
    halved = VAEConfig(base_dim=48, dim_mult=(1, 1, 2, 4), num_res_blocks=1)
    with pytest.raises(
        ValueError, match=r"channels \[48, 96, 192\], halved where the picture grows, are not multiples"
    ):
        use_channels_last(VideoVAE(halved))


@pytest.mark.parametrize(
    ("capability", "device", "dtype", "expected"),
    [
        ((9, 0), "cuda", torch.bfloat16, True),
        ((9, 0), "cuda", torch.float16, True),
        ((10, 0), "cuda", torch.bfloat16, False),
        ((9, 0), "cuda", torch.float32, False),
        ((8, 9), "cuda", torch.bfloat16, False),
        ((9, 0), "cpu", torch.bfloat16, False),
    ],
)
def test_where_it_pays(monkeypatch, capability, device, dtype, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    built = ("triton",)
    monkeypatch.setattr(registry, "unavailable", lambda op, backend, device: None if backend in built else "not built")
    with torch.device("meta"):
        vae = VideoVAE(preset("humo-1.7b").vae).to(dtype)
    assert channels_last_pays(vae, torch.device(device)) is expected


def test_it_does_not_pay_where_it_cannot_run(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(registry, "unavailable", lambda op, backend, device: None)
    narrow = VideoVAE(VAEConfig(base_dim=24)).bfloat16()
    assert not channels_last_pays(narrow, torch.device("cuda"))
    with torch.device("meta"):
        wide = VideoVAE(preset("humo-1.7b").vae).bfloat16()
    assert channels_last_pays(wide, torch.device("cuda"))
    monkeypatch.setattr(registry, "unavailable", lambda op, backend, device: "not here")
    assert not channels_last_pays(wide, torch.device("cuda"))
