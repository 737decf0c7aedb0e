"""Video <-> normalised latents, through diffusers' ``AutoencoderKLWan``, a piece of time at a time.

Knows how Wan's causal convolutions carry their caches from one piece of the video to the next, and the per-channel
normalisation of the latents. Knows nothing of files, of images, or of what the latents are used for.

The autoencoder treats the first frame alone and then four frames per latent frame. Its caches make the result
independent of how the rest is cut, so the piece size is only a trade of memory against speed: training takes the rest
in one piece, inference in pieces of bounded size. The caches live in the calling frame, not in the module: several
videos may be coded at the same time.

Shape suffixes: B batch, C channels, F video frames, H W pixels; latents have T frames and h w cells (1 + 4(T-1) = F).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from humo_rt.config import LATENT_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE, VAEConfig

_MAX_STREAM_PIECE = 4


class VideoVAE(nn.Module):
    """Wan's causal video autoencoder with normalised latents.

    ``autoencoder`` is a plain diffusers ``AutoencoderKLWan``: its state dict has diffusers' names.
    """

    # Frames x height x width worked on at once when no piece size is given: one latent frame at 480x832.
    pixels_per_piece = pixels_per_decoded_piece = TEMPORAL_STRIDE * 480 * 832

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        from diffusers import AutoencoderKLWan

        patch = config.patch_size or 1
        self.config = config
        self.autoencoder = AutoencoderKLWan(
            base_dim=config.base_dim,
            decoder_base_dim=config.decoder_base_dim,
            z_dim=LATENT_CHANNELS,
            dim_mult=list(config.dim_mult),
            num_res_blocks=config.num_res_blocks,
            temperal_downsample=list(config.temporal_downsample),
            latents_mean=list(config.latents_mean),
            latents_std=list(config.latents_std),
            in_channels=3 * patch**2,
            out_channels=3 * patch**2,
            patch_size=config.patch_size,
            is_residual=config.residual,
        )
        # One cache per causal convolution; the pointwise ones leave theirs unused.
        self._encoder_caches = _count_convolutions(self.autoencoder.encoder)
        self._decoder_caches = _count_convolutions(self.autoencoder.decoder)

    def encode(self, video_BCFHW: Tensor, *, chunk: int | None = None) -> Tensor:
        """Encode (B, 3, F, H, W) in [-1, 1] to normalised latents (B, 16, 1 + (F-1)//4, H/8, W/8) in float32.

        The mean of the posterior is taken, so the result is deterministic; gradients flow. Frames beyond the last
        complete group of four are ignored. ``chunk`` is the piece size in latent frames (default: all at once when
        autograd records, else bounded memory). ``ValueError`` if H or W is not a multiple of 8 or F is 0.
        """
        moments_BCThw = self.encode_moments(video_BCFHW, chunk=chunk)
        mean, std = self._statistics(moments_BCThw.device)
        return (moments_BCThw[:, :LATENT_CHANNELS].float() - mean) / std

    def encode_moments(self, video_BCFHW: Tensor, *, chunk: int | None = None) -> Tensor:
        """Posterior mean and log variance before normalisation: (B, 32, T, h, w), as the autoencoder computes them."""
        height, width = video_BCFHW.shape[-2:]
        if video_BCFHW.shape[2] < 1 or height % SPATIAL_STRIDE or width % SPATIAL_STRIDE:
            raise ValueError(
                f"video of {video_BCFHW.shape[2]} frames, {height}x{width}: "
                f"give at least one frame with height and width multiples of {SPATIAL_STRIDE}"
            )
        model = self.autoencoder
        x_BCFHW = _fold_pixels(video_BCFHW.to(model.dtype), self.config.patch_size)
        latent_frames = (video_BCFHW.shape[2] - 1) // TEMPORAL_STRIDE
        bounded = not torch.is_grad_enabled()
        chunk = chunk or _piece(latent_frames, height * width, self.pixels_per_piece, bounded=bounded)
        caches = [None] * self._encoder_caches
        pieces = [model.encoder(x_BCFHW[:, :, :1], feat_cache=caches, feat_idx=[0])]
        for start in range(0, latent_frames, chunk):
            first = 1 + TEMPORAL_STRIDE * start
            last = 1 + TEMPORAL_STRIDE * min(start + chunk, latent_frames)
            pieces.append(model.encoder(x_BCFHW[:, :, first:last], feat_cache=caches, feat_idx=[0]))
        return model.quant_conv(torch.cat(pieces, dim=2))

    def decode(self, latents_BCThw: Tensor, *, chunk: int | None = None) -> Tensor:
        """Decode normalised latents (B, 16, T, h, w) to (B, 3, 1 + 4(T-1), 8h, 8w), float32, *not* clamped.

        Gradients flow. ``chunk`` as in ``encode``.
        """
        return torch.cat(list(self._decode_pieces(latents_BCThw, chunk)), dim=2)

    @torch.no_grad()
    def decode_chunks(self, latents_BCThw: Tensor, chunk: int | None = None) -> Iterator[Tensor]:
        """Yield the decoded video as blocks (B, 3, f, 8h, 8w) in [-1, 1], in order, each as soon as it is ready.

        The first block is one frame; each further block has 4 * ``chunk`` frames (the last may have fewer). By default
        a block has 4 latent frames, fewer where the frame is large. Only one block is alive at a time.
        """
        if chunk is None:
            pixels = latents_BCThw.shape[-2] * latents_BCThw.shape[-1] * SPATIAL_STRIDE**2
            chunk = _piece(_MAX_STREAM_PIECE, pixels, self.pixels_per_decoded_piece, bounded=True)
        for block_BCFHW in self._decode_pieces(latents_BCThw, chunk):
            yield block_BCFHW.clamp(-1.0, 1.0)

    def empty_decoder_caches(self) -> list[Tensor | None]:
        """Caches to hand to ``decode_piece`` for the first piece."""
        return [None] * self._decoder_caches

    def decode_piece(self, latents_BCThw: Tensor, caches: list[Tensor | None], *, first: bool) -> Tensor:
        """Decode the next normalised latents to (B, 3, f, 8h, 8w) in float32, not clamped, and update ``caches``.

        The first latent frame must go alone: on its first call the temporal upsampling only marks its cache and passes
        the frame through, which is what turns 1 latent frame into 1 frame instead of 4.
        """
        model = self.autoencoder
        mean, std = self._statistics(latents_BCThw.device)
        x_BCThw = model.post_quant_conv((latents_BCThw.float() * std + mean).to(model.dtype))
        block_BCFHW = model.decoder(x_BCThw, feat_cache=caches, feat_idx=[0], first_chunk=first)
        return unfold_pixels(block_BCFHW, self.config.patch_size).float()

    def _decode_pieces(self, latents_BCThw: Tensor, chunk: int | None) -> Iterator[Tensor]:
        frames, height, width = latents_BCThw.shape[2:]
        pixels = height * width * SPATIAL_STRIDE**2
        bounded = not torch.is_grad_enabled()
        chunk = chunk or _piece(frames - 1, pixels, self.pixels_per_decoded_piece, bounded=bounded)
        caches = self.empty_decoder_caches()
        for start in [0, *range(1, frames, chunk)]:
            piece_BCThw = latents_BCThw[:, :, start : start + chunk if start else 1]
            yield self.decode_piece(piece_BCThw, caches, first=start == 0)

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Latent mean and standard deviation, (1, 16, 1, 1, 1) float32; made here so that a meta build keeps them."""
        shape = (1, LATENT_CHANNELS, 1, 1, 1)
        mean = torch.tensor(self.config.latents_mean, dtype=torch.float32, device=device).view(shape)
        return mean, torch.tensor(self.config.latents_std, dtype=torch.float32, device=device).view(shape)


def _piece(latent_frames: int, pixels_per_frame: int, pixels_per_piece: int, *, bounded: bool) -> int:
    """How many latent frames to work on at once."""
    whole = max(latent_frames, 1)
    return min(whole, max(1, pixels_per_piece // (TEMPORAL_STRIDE * pixels_per_frame))) if bounded else whole


def _count_convolutions(module: nn.Module) -> int:
    return sum(isinstance(child, nn.Conv3d) for child in module.modules())


def _fold_pixels(x_BCFHW: Tensor, patch: int | None) -> Tensor:
    """Fold patch x patch pixels into channels in the order (colour, column, row) that the published models use."""
    if not patch or patch == 1:
        return x_BCFHW
    batch, channels, frames, height, width = x_BCFHW.shape
    x = x_BCFHW.reshape(batch, channels, frames, height // patch, patch, width // patch, patch)
    x = x.permute(0, 1, 6, 4, 2, 3, 5)
    return x.reshape(batch, channels * patch**2, frames, height // patch, width // patch)


def unfold_pixels(x_BCFHW: Tensor, patch: int | None) -> Tensor:
    """The inverse of ``_fold_pixels``."""
    if not patch or patch == 1:
        return x_BCFHW
    batch, channels, frames, height, width = x_BCFHW.shape
    x = x_BCFHW.reshape(batch, channels // patch**2, patch, patch, frames, height, width)
    x = x.permute(0, 1, 4, 5, 3, 6, 2)
    return x.reshape(batch, channels // patch**2, frames, height * patch, width * patch)
