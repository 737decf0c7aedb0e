"""The channels-last decoder on a GPU: as near to the truth as the plain one, and on the shipped weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import humo_rt
from humo_rt.conditions.image import fit_on_white
from humo_rt.config import VAEConfig
from humo_rt.media import read_image
from humo_rt.model.vae import VideoVAE
from humo_rt.pipeline import Pipeline
from humo_rt.runtime.channels_last_vae import ChannelsLastVAE, channels_last_pays, use_channels_last, use_plain

pytestmark = pytest.mark.gpu

SAMPLES = Path(humo_rt.__file__).parent / "assets" / "samples"


@pytest.fixture(params=[torch.bfloat16, torch.float16], ids=str)
def wide_vae(request) -> VideoVAE:
    """The published widths with one block at each resolution."""
    torch.manual_seed(0)
    return VideoVAE(VAEConfig(num_res_blocks=1)).eval().requires_grad_(False).to("cuda", request.param)


def error(video: torch.Tensor, truth: torch.Tensor) -> float:
    return (video - truth).square().mean().sqrt().item()


@torch.no_grad()
@pytest.mark.parametrize("size", [(4, 4), (6, 10)])
def test_it_is_as_near_to_float32_as_the_plain_decoder(wide_vae, size):
    latents = torch.randn(1, 16, 6, *size, device="cuda")
    plain, precision = wide_vae.decode(latents), wide_vae.autoencoder.dtype
    truth = wide_vae.float().decode(latents)
    use_channels_last(wide_vae.to(precision))
    for chunk in (1, 3):
        assert error(wide_vae.decode(latents, chunk=chunk), truth) <= 1.2 * error(plain, truth)


@torch.no_grad()
def test_shipped_weights_give_the_same_video():
    """Two decoders in bfloat16, on trained weights: under random ones rounding errors grow to about 50 dB in either."""
    vae = Pipeline.from_pretrained("nano", device="cuda").vae
    assert isinstance(vae, ChannelsLastVAE) == channels_last_pays(vae, torch.device("cuda"))
    use_channels_last(vae)
    picture = fit_on_white(read_image(SAMPLES / "portrait.png"), 128, 128).cuda()
    video = torch.stack([picture.roll((i, 2 * i), (1, 2)) for i in range(17)], dim=1)[None]
    latents = vae.encode(video)
    fast = vae.decode(latents, chunk=2).clamp(-1, 1)
    plain = use_plain(vae).decode(latents, chunk=2).clamp(-1, 1)
    assert 10 * torch.log10(4 / (fast - plain).square().mean()) >= 55
