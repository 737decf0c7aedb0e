"""Reference images and the grey video that stands for "no image", as latents.

Knows how an image is fitted into the frame and how the 20 condition channels are laid out. Reads no files; the
autoencoder is given.

Shape suffixes: B batch, C channels, T latent frames, F video frames, R references, H W pixels, h w latent cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from humo_rt.config import MASK_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE

if TYPE_CHECKING:
    from PIL.Image import Image

    from humo_rt.model.vae import VideoVAE

WHITE = (255, 255, 255)


def fitted_size(size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """Width and height of an image of ``size`` within the frame; ``ValueError`` if nothing is left of it.

    Truncated in double arithmetic as in the published models, so that an image of exactly the frame's ratio may come
    out one pixel short.
    """
    ratio = size[0] / size[1]
    fitted = (width, int(width / ratio)) if ratio > width / height else (int(height * ratio), height)
    if min(fitted) < 1:
        raise ValueError(f"image of {size[0]}x{size[1]} vanishes in {width}x{height}: crop it to a squarer one")
    return fitted


def fit_on_white(image: Image, width: int, height: int) -> Tensor:
    """Shrink or grow an image to fit the frame, keep its aspect ratio, centre it on white: (3, H, W) in [-1, 1].

    An alpha channel is dropped, not blended.
    """
    from PIL import Image as PillowImage

    size = fitted_size(image.size, width, height)
    canvas = PillowImage.new("RGB", (width, height), WHITE)
    resized = image.convert("RGB").resize(size, PillowImage.Resampling.LANCZOS)
    canvas.paste(resized, ((width - size[0]) // 2, (height - size[1]) // 2))
    pixels_HWC = torch.from_numpy(np.array(canvas))
    return pixels_HWC.permute(2, 0, 1).float().div(255).sub(0.5).div(0.5).contiguous()


@torch.no_grad()
def encode_references(vae: VideoVAE, images_3HW: Sequence[Tensor]) -> Tensor:
    """Encode every image alone as a video of one frame: (16, R, h, w), normalised latents on the VAE's device."""
    weight = next(vae.parameters())
    latents = [vae.encode(image.to(weight)[None, :, None])[0] for image in images_3HW]
    return torch.cat(latents, dim=1)


@torch.no_grad()
def encode_grey(vae: VideoVAE, num_frames: int, height: int, width: int) -> Tensor:
    """Encode a mid-grey video (``zero_vae`` of the published 17B model): (16, (num_frames - 1) / 4 + 1, h, w).

    Its latent frames differ, so references need their own: ask for ``num_frames + 4 * references``.
    """
    weight = next(vae.parameters())
    return vae.encode(weight.new_zeros(1, 3, num_frames, height, width))[0]


def grey_latents(
    vae: VideoVAE, num_latent_frames: int, height: int, width: int, shipped: Iterable[Tensor] = ()
) -> Tensor:
    """Grey latents for a video of ``height`` x ``width`` latent cells: (16, num_latent_frames, h, w) in float32.

    Cut from the first of ``shipped`` (published files, (16, T, h, w)) that covers them, encoded otherwise.
    """
    for latents in shipped:
        if tuple(latents.shape[2:]) == (height, width) and latents.shape[1] >= num_latent_frames:
            return latents[:, :num_latent_frames].to(next(vae.parameters()).device, torch.float32)
    num_frames = TEMPORAL_STRIDE * (num_latent_frames - 1) + 1
    return encode_grey(vae, num_frames, SPATIAL_STRIDE * height, SPATIAL_STRIDE * width)


def assemble_condition(
    grey_CThw: Tensor, num_latent_frames: int, references_CRhw: Tensor | None = None, num_references: int = 1
) -> Tensor:
    """The 20 condition channels of a "channels" model: 4 of mask, then 16 of latents.

    Video frames carry mask 0 and grey latents; the reference frames behind them carry mask 1 and the reference latents
    or, for the null image (``references_CRhw=None``), further grey latents of ``num_references`` frames.
    ``grey_CThw``: (16, at least num_latent_frames [+ num_references], h, w).
    Returns (20, num_latent_frames + R, h, w).
    """
    if references_CRhw is not None:
        num_references = references_CRhw.shape[1]
    total = num_latent_frames + num_references
    needed = total if references_CRhw is None else num_latent_frames
    if grey_CThw.shape[1] < needed:
        raise ValueError(f"{grey_CThw.shape[1]} grey latent frames are too few: encode {needed}")
    if references_CRhw is None:
        latents = grey_CThw[:, :total]
    else:
        latents = torch.cat([grey_CThw[:, :num_latent_frames], references_CRhw.to(grey_CThw)], dim=1)
    mask = latents.new_zeros(MASK_CHANNELS, *latents.shape[1:])
    mask[:, num_latent_frames:] = 1
    return torch.cat([mask, latents], dim=0)
