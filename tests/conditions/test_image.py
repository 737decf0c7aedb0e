"""Reference images and condition channels against the published pipeline."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from humo_rt.conditions.image import assemble_condition, encode_grey, encode_references, fit_on_white, grey_latents
from tests.golden_data import GOLDEN, case, case_ids, load_group, recipe_input


class MeanPoolVAE(torch.nn.Module):
    """Stands in for the autoencoder: means over its strides, plus the frame's number, repeated to 16 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen: list[tuple[int, ...]] = []

    def encode(self, video_BCFHW: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(video_BCFHW.shape))
        pooled = torch.nn.functional.avg_pool3d(video_BCFHW.mean(1, keepdim=True), (1, 8, 8))[:, :, ::4]
        return (pooled + torch.arange(pooled.shape[2])[:, None, None]).repeat(1, 16, 1, 1, 1)


@pytest.mark.parametrize("case_id", case_ids("image"))
def test_images_are_fitted_as_in_the_release(case_id):
    entry, tensors = case("image", case_id), load_group("image")[1]
    width, height = entry["size_WH"]
    images = [Image.open(GOLDEN / image["file"]) for image in entry["images"]]
    fitted = torch.stack([fit_on_white(image, width, height) for image in images], dim=1)
    assert list(fitted.shape) == entry["out_shape"]
    levels = ((fitted * 0.5 + 0.5) * 255).round().to(torch.uint8).numpy()
    if f"{case_id}.out" in tensors:
        assert torch.equal(fitted, tensors[f"{case_id}.out"])
    else:
        assert np.array_equal(levels[:, :, ::8, ::8], tensors[f"{case_id}.uint8_every8th"])
        assert np.array_equal(levels[..., :4], tensors[f"{case_id}.uint8_first4_columns"])
        assert np.array_equal(levels[..., -4:], tensors[f"{case_id}.uint8_last4_columns"])
    assert zlib.crc32(np.ascontiguousarray(levels).tobytes()) == entry["uint8_crc32"]


def test_an_image_that_vanishes_is_refused():
    with pytest.raises(ValueError, match="5000x1 vanishes in 128x128"):
        fit_on_white(Image.new("RGB", (5000, 1)), 128, 128)


@pytest.mark.parametrize("case_id", case_ids("prep"))
def test_condition_channels_agree_with_the_release(case_id):
    entry, tensors = case("prep", case_id), load_group("prep")[1]
    frames = (entry["frame_num_used"] - 1) // 4 + 1
    grey = recipe_input(entry["zero_vae"])
    null = assemble_condition(grey, frames, num_references=entry["nref"])
    assert torch.equal(null, tensors[f"{case_id}.y_null"])
    if "latents_ref" in entry:
        given = assemble_condition(grey, frames, recipe_input(entry["latents_ref"]))
        assert torch.equal(given, tensors[f"{case_id}.y_c"])


def test_too_few_grey_frames_are_refused():
    with pytest.raises(ValueError, match="3 grey latent frames are too few: encode 4"):
        assemble_condition(torch.zeros(16, 3, 2, 2), 3)


def test_references_are_encoded_one_by_one_and_joined_in_time():
    vae = MeanPoolVAE()
    latents = encode_references(vae, [torch.full((3, 16, 24), 0.5), torch.full((3, 16, 24), -1.0)])
    assert vae.seen == [(1, 3, 1, 16, 24)] * 2
    assert latents.shape == (16, 2, 2, 3)
    assert latents[0, :, 0, 0].tolist() == [0.5, -1.0]


def test_grey_comes_from_a_file_that_fits_and_is_encoded_otherwise():
    vae = MeanPoolVAE()
    assert torch.equal(encode_grey(vae, 9, 16, 24)[0, :, 0, 0], torch.tensor([0.0, 1.0, 2.0]))
    fitting, small = torch.full((16, 5, 2, 3), 7.0), torch.full((16, 9, 2, 2), 8.0)
    vae.seen.clear()
    assert torch.equal(grey_latents(vae, 4, 2, 3, [small, fitting]), fitting[:, :4])
    assert not vae.seen
    half = grey_latents(vae, 3, 2, 3, [fitting.bfloat16()])
    assert half.shape == (16, 3, 2, 3)
    assert half.dtype == torch.float32  # references joined to it are not rounded
    assert not vae.seen
    assert grey_latents(vae, 6, 2, 3, [small, fitting]).shape == (16, 6, 2, 3)
    assert vae.seen == [(1, 3, 21, 16, 24)]
