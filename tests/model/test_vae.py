from __future__ import annotations

import dataclasses
import gzip
import json

import pytest
import torch

from humo_rt.config import VAEConfig, preset
from humo_rt.model.vae import VideoVAE, _piece
from tests.golden_data import GOLDEN, case, case_ids, load_group, load_json, recipe_input, recipe_weights

ATOL = 2e-5
TINY = dataclasses.replace(preset("nano").vae, base_dim=8)


@pytest.fixture(scope="module")
def golden_vae() -> VideoVAE:
    settings, _ = load_group("vae")
    names = load_json("vae_keymap_diffusers")["map"]
    vae = VideoVAE(VAEConfig(base_dim=settings["config"]["dim"])).eval()
    vae.autoencoder.load_state_dict({names[k]: v for k, v in recipe_weights(settings["weights"]).items()})
    return vae


@pytest.fixture(scope="module")
def tiny_vae() -> VideoVAE:
    torch.manual_seed(0)
    return VideoVAE(dataclasses.replace(TINY, latents_mean=(0.3,) * 16, latents_std=(1.5,) * 16)).eval()


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("case_id", case_ids("vae", "encode"))
def test_encode_computes_the_published_numbers(golden_vae, case_id, chunk):
    _, tensors = load_group("vae")
    video = recipe_input(case("vae", case_id, "encode")["video"])[None]
    with torch.no_grad():
        latents = golden_vae.encode(video, chunk=chunk)
        moments = golden_vae.encode_moments(video, chunk=chunk)
    torch.testing.assert_close(latents[0], tensors[f"enc.{case_id}.out"], atol=ATOL, rtol=0)
    torch.testing.assert_close(moments[0, :16], tensors[f"enc.{case_id}.mu_unnormalised"], atol=ATOL, rtol=0)


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("case_id", case_ids("vae", "decode"))
def test_decode_computes_the_published_numbers(golden_vae, case_id, chunk):
    _, tensors = load_group("vae")
    latents = recipe_input(case("vae", case_id, "decode")["latent"])[None]
    expected = tensors[f"dec.{case_id}.out_unclamped"]
    with torch.no_grad():
        torch.testing.assert_close(golden_vae.decode(latents, chunk=chunk)[0], expected, atol=ATOL, rtol=0)
        stream = torch.cat(list(golden_vae.decode_chunks(latents, chunk)), dim=2)
    torch.testing.assert_close(stream[0], expected.clamp(-1, 1), atol=ATOL, rtol=0)


def test_pixel_folding_and_pieces_agree_with_diffusers(tiny_vae):
    video = torch.rand(2, 3, 17, 32, 48) * 2 - 1
    with torch.no_grad():
        reference = tiny_vae.autoencoder.encode(video).latent_dist.mean
        for chunk in (None, 1, 3):
            torch.testing.assert_close(tiny_vae.encode(video, chunk=chunk), (reference - 0.3) / 1.5, atol=1e-5, rtol=0)
        decoded = tiny_vae.autoencoder.decode(reference).sample
        for chunk in (None, 1, 2, 3, 9):
            blocks = list(tiny_vae.decode_chunks((reference - 0.3) / 1.5, chunk))
            torch.testing.assert_close(torch.cat(blocks, dim=2), decoded, atol=1e-5, rtol=0)
            assert blocks[0].shape[2] == 1


def test_two_videos_can_be_decoded_at_once(tiny_vae):
    latents = torch.randn(2, 1, 16, 4, 4, 4)
    one, other = (tiny_vae.decode_chunks(z, 1) for z in latents)
    blocks = list(zip(one, other, strict=True))
    for i in range(2):
        expected = torch.cat(list(tiny_vae.decode_chunks(latents[i], 1)), dim=2)
        assert torch.equal(torch.cat([pair[i] for pair in blocks], dim=2), expected)


def test_surplus_frames_do_not_change_the_latents(tiny_vae):
    video = torch.rand(1, 3, 8, 16, 16)
    with torch.no_grad():
        assert torch.equal(tiny_vae.encode(video), tiny_vae.encode(video[:, :, :5]))


def test_large_frames_are_streamed_in_smaller_blocks(tiny_vae):
    assert _piece(100, 480 * 832, tiny_vae.pixels_per_piece, bounded=True) == 1
    assert _piece(4, 128 * 128, tiny_vae.pixels_per_piece, bounded=True) == 4


@pytest.mark.parametrize("shape", [(1, 3, 1, 20, 16), (1, 3, 1, 16, 12), (1, 3, 0, 16, 16)])
def test_sizes_that_do_not_fit_are_refused(tiny_vae, shape):
    with pytest.raises(ValueError, match="multiples of 8"):
        tiny_vae.encode(torch.zeros(shape))


@pytest.mark.parametrize("autocast", [False, True])
def test_every_parameter_is_reached_by_a_training_step(autocast):
    torch.manual_seed(0)
    vae = VideoVAE(TINY)
    video = torch.rand(2, 3, 9, 16, 16) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        moments = vae.encode_moments(video)
        loss = (vae.decode(moments[:, :16]) - video).abs().mean() + moments.square().mean()
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in vae.parameters())


def test_full_vae_has_the_published_shapes_on_the_meta_device():
    with gzip.open(GOLDEN / "manifests" / "wan21_vae.json.gz", "rt") as file:
        manifest = json.load(file)
    with torch.device("meta"):
        vae = VideoVAE(VAEConfig())
    names = load_json("vae_keymap_diffusers")["map"]
    shapes = {name: list(tensor.shape) for name, tensor in vae.autoencoder.state_dict().items()}
    assert shapes == {names[name]: shape for name, (shape, _) in manifest.items()}
