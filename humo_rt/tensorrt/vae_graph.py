"""The decoder of the video VAE with its caches as tensors: one latent frame and caches in, frames and caches out.

The decoder keeps the last two frames that every causal convolution saw. Before the first frame there are none, and the
convolution pads with zeros: so a cache of one frame is the same as that frame after a frame of zeros, and the mark that
the temporal upsampling leaves on its first call is the same as two frames of zeros. Every cache is therefore two frames
long, and two graphs are enough: one for the first latent frame, which gives one frame, and one for each that follows.

Shape suffixes: B batch, C channels, T latent frames (1 here), F video frames, h w cells, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo_rt.config import LATENT_CHANNELS
from humo_rt.model.vae import VideoVAE
from humo_rt.runtime.channels_last_vae import ChannelsLastVAE

CACHED_FRAMES = 2
_CELLS = 2


@dataclass(frozen=True, kw_only=True)
class CacheShape:
    """A cache (B, channels, 2, scale * h, scale * w) at place ``index`` of the decoder's list."""

    index: int
    channels: int
    scale: int

    @property
    def name(self) -> str:
        return f"cache_{self.index}"


@torch.no_grad()
def cache_shapes(vae: VideoVAE) -> tuple[CacheShape, ...]:
    """The caches that the decoder uses, found by decoding two frames of the smallest size.

    ``ValueError`` for a channels-last VAE.
    """
    if isinstance(vae, ChannelsLastVAE):
        raise ValueError("this VAE decodes channels-last, as pipelines on Hopper do: call use_plain on it first")
    caches = vae.empty_decoder_caches()
    latents = torch.zeros(1, LATENT_CHANNELS, 1, _CELLS, _CELLS, device=next(vae.parameters()).device)
    for first in (True, False):
        vae.decode_piece(latents, caches, first=first)
    return tuple(
        CacheShape(index=index, channels=cache.shape[1], scale=cache.shape[-1] // _CELLS)
        for index, cache in enumerate(caches)
        if cache is not None
    )


class VAEDecoderStep(nn.Module):
    """Decodes one latent frame. ``first``: it is the first of the video, so there are no caches yet."""

    def __init__(self, vae: VideoVAE, shapes: tuple[CacheShape, ...], *, first: bool) -> None:
        super().__init__()
        self.vae = vae
        self.shapes = shapes
        self.first = first

    def forward(self, latents: Tensor, caches: list[Tensor]) -> tuple[Tensor, ...]:
        """Frames (B, 3, F, H, W) float32, not clamped, then the caches of ``shapes``. ``caches``: empty at first."""
        kept = self.vae.empty_decoder_caches()
        for shape, cache in zip(self.shapes, caches, strict=not self.first):
            kept[shape.index] = cache
        frames_BCFHW = self.vae.decode_piece(latents, kept, first=self.first)
        return frames_BCFHW, *(_two_frames(kept[shape.index], shape, latents) for shape in self.shapes)


def _two_frames(cache: Tensor | str, shape: CacheShape, latents_BCThw: Tensor) -> Tensor:
    if isinstance(cache, str):  # the mark of a temporal upsampling that has seen nothing yet
        batch, _, _, rows, columns = latents_BCThw.shape
        return latents_BCThw.new_zeros(batch, shape.channels, CACHED_FRAMES, shape.scale * rows, shape.scale * columns)
    return F.pad(cache, (0, 0, 0, 0, CACHED_FRAMES - cache.shape[2], 0))
