"""A video autoencoder that decodes in channels-last memory: no change of layout, no copy for padding or caches.

``use_channels_last`` changes a ``VideoVAE`` in place and ``use_plain`` changes it back; a pipeline does so where
``channels_last_pays``. The same function of the same parameters: only the order of additions differs, and values are
rounded less often. For inference: the kernels have no backward pass, and whoever trains keeps the plain decoder.

Activations lie as (N, T, Y, X, C), each frame inside a border of zeros one pixel wide. The pass that makes the input of
a causal convolution writes it behind the two frames remembered from the piece before, so the convolution reads nothing
but one tensor; those two frames are all that is kept from piece to piece.

Shape legend: N videos, T frames, Y X rows and columns with their border, C O channels; VideoVAE's B C T h w outside.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    DupUp3D,
    WanAttentionBlock,
    WanMidBlock,
    WanResample,
    WanResidualBlock,
    WanResidualUpBlock,
    WanRMS_norm,
    WanUpBlock,
)
from torch import Tensor, nn

from humo_rt.config import TEMPORAL_STRIDE, VAEConfig
from humo_rt.kernels import registry
from humo_rt.kernels.causal_conv import CHANNEL_MULTIPLE, causal_conv
from humo_rt.kernels.rms_silu import rms_silu
from humo_rt.model.vae import VideoVAE, unfold_pixels

REMEMBERED = 2  # frames, by every kernel of three
HALF = (torch.bfloat16, torch.float16)
HOPPER = 9  # major compute capability

Convolve = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class ChannelsLastVAE(VideoVAE):
    """A ``VideoVAE`` whose decoder runs on channels-last kernels. ``use_channels_last`` turns one into this."""

    pixels_per_decoded_piece = 2 * TEMPORAL_STRIDE * 480 * 832
    convolve: Convolve  # the op of this signature; benchmarks put others in its place

    def decode_piece(self, latents_BCThw: Tensor, caches: list[Tensor | None], *, first: bool) -> Tensor:
        """As ``VideoVAE.decode_piece``; ``caches`` are the remembered frames."""
        model, memory = self.autoencoder, Memory(caches)
        mean, std = self._statistics(latents_BCThw.device)
        z_BCThw = (latents_BCThw.float() * std + mean).to(model.dtype)
        z_NTYXC = bordered(pointwise(model.post_quant_conv, z_BCThw.permute(0, 2, 3, 4, 1)))
        decoder = model.decoder
        x = self._convolved(decoder.conv_in, memory.before(z_NTYXC))
        x = self._middle(decoder.mid_block, x, memory)
        for block in decoder.up_blocks:
            x = self._up_block(block, x, memory, first=first)
        x = self._convolved(decoder.conv_out, memory.activated(decoder.norm_out, x))
        x_NTHWC = x[:, :, 1:-1, 1:-1, : decoder.conv_out.out_channels]
        return unfold_pixels(x_NTHWC.permute(0, 4, 1, 2, 3), self.config.patch_size).float()

    def _convolved(self, layer: nn.Conv2d | nn.Conv3d, x_NTYXC: Tensor, residual: Tensor | None = None) -> Tensor:
        return self.convolve(x_NTYXC, *taps(layer), residual)

    def _residual_block(self, block: WanResidualBlock, x_NTYXC: Tensor, memory: Memory) -> Tensor:
        shortcut = block.conv_shortcut
        # Its border is not zero, but the border of a residual is not read.
        kept = x_NTYXC if isinstance(shortcut, nn.Identity) else pointwise(shortcut, x_NTYXC)
        y = self._convolved(block.conv1, memory.activated(block.norm1, x_NTYXC))
        return self._convolved(block.conv2, memory.activated(block.norm2, y), kept)

    def _middle(self, block: WanMidBlock, x_NTYXC: Tensor, memory: Memory) -> Tensor:
        first, *others = block.resnets
        x = self._residual_block(first, x_NTYXC, memory)
        for attention, resnet in zip(block.attentions, others, strict=True):
            x = self._residual_block(resnet, attended(attention, x), memory)
        return x

    def _up_block(
        self, block: WanUpBlock | WanResidualUpBlock, x_NTYXC: Tensor, memory: Memory, *, first: bool
    ) -> Tensor:
        if isinstance(block, WanResidualUpBlock):
            upsampler, shortcut = block.upsampler, block.avg_shortcut
        else:
            upsampler, shortcut = (block.upsamplers or (None,))[0], None
        x = x_NTYXC
        for resnet in block.resnets:
            x = self._residual_block(resnet, x, memory)
        if upsampler is None:
            return x
        kept = None if shortcut is None else spread_out(shortcut, x_NTYXC, first=first)
        return self._upsampled(upsampler, x, kept, memory, first=first)

    def _upsampled(
        self, layer: WanResample, x_NTYXC: Tensor, residual: Tensor | None, memory: Memory, *, first: bool
    ) -> Tensor:
        """Twice the rows and columns and, after the first frame of the video, twice the frames."""
        x_NTHWSC = x_NTYXC[:, :, 1:-1, 1:-1, None]
        if layer.mode == "upsample3d" and not first:
            doubled = self._convolved(layer.time_conv, memory.before(x_NTYXC))
            x_NTHWSC = doubled[:, :, 1:-1, 1:-1].unflatten(-1, (2, -1))
        elif layer.mode == "upsample3d":
            memory.skip()
        return self._convolved(layer.resample[1], enlarged(x_NTHWSC), residual)


class Memory:
    """The remembered frames of every causal convolution, met in the order of the forward pass."""

    def __init__(self, caches: list[Tensor | None]) -> None:
        self._caches = caches
        self._next = 0

    def skip(self) -> None:
        self._next += 1

    def activated(self, norm: WanRMS_norm, x_NTYXC: Tensor) -> Tensor:
        """The remembered frames, then x normed and activated: (N, 2 + T, Y, X, C)."""
        return self._updated(rms_silu(x_NTYXC, norm.gamma.flatten(), self._past(x_NTYXC)))

    def before(self, x_NTYXC: Tensor) -> Tensor:
        """The remembered frames, then x as it is: (N, 2 + T, Y, X, C)."""
        return self._updated(torch.cat((self._past(x_NTYXC), x_NTYXC), dim=1))

    def _past(self, x_NTYXC: Tensor) -> Tensor:
        past = self._caches[self._next]
        return x_NTYXC.new_zeros((x_NTYXC.shape[0], REMEMBERED, *x_NTYXC.shape[2:])) if past is None else past

    def _updated(self, frames_NTYXC: Tensor) -> Tensor:
        self._caches[self._next] = frames_NTYXC[:, -REMEMBERED:].clone()  # a view would keep the whole piece
        self._next += 1
        return frames_NTYXC


def use_channels_last(vae: VideoVAE, *, convolve: Convolve = causal_conv) -> VideoVAE:
    """Make ``vae`` decode in channels-last memory, in place; returns it.

    Call it once the weights are loaded, on their device and in their dtype: the kernels of convolutions change their
    layout, not their values. ``ValueError`` when the architecture is not covered (see ``unsuited``).
    """
    reason = unsuited(vae.config)
    if reason is not None:
        raise ValueError(f"this autoencoder cannot be decoded in channels-last memory: {reason}")
    _lay_out(vae.autoencoder.decoder, {4: torch.channels_last, 5: torch.channels_last_3d})
    vae.__class__ = ChannelsLastVAE
    vae.convolve = convolve
    return vae


def use_plain(vae: VideoVAE) -> VideoVAE:
    """Give ``vae`` its plain decoder back, in place; returns it. A plain one stays as it is."""
    if isinstance(vae, ChannelsLastVAE):
        _lay_out(vae.autoencoder.decoder, {4: torch.contiguous_format, 5: torch.contiguous_format})
        vae.__class__ = VideoVAE
        del vae.convolve
    return vae


def _lay_out(decoder: nn.Module, formats: dict[int, torch.memory_format]) -> None:
    """Give every kernel the memory format of its number of axes."""
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=formats[module.weight.ndim])


def channels_last_pays(vae: VideoVAE, device: torch.device) -> bool:
    """Whether ``vae`` decodes faster like this on ``device``.

    Measured on Hopper alone, with 97 frames of 480x832: 3.0 (H200) to 3.3 times (H100) as fast as diffusers with the
    compiled convolution, 2.8 times (H100) with Triton's (benchmarks/vae_decode.py).
    """
    if device.type != "cuda" or vae.autoencoder.dtype not in HALF or unsuited(vae.config) is not None:
        return False
    kernels = [backend for backend in registry.BACKENDS if not registry.unavailable("causal_conv", backend, device)]
    return bool(kernels) and torch.cuda.get_device_capability(device)[0] == HOPPER


def unsuited(config: VAEConfig) -> str | None:
    """Why a decoder of this architecture keeps the plain path, or None."""
    base = config.decoder_base_dim or config.base_dim
    widths = [base * factor for factor in config.dim_mult]
    if any(width % CHANNEL_MULTIPLE for width in widths):
        return f"its channels {widths} are not multiples of {CHANNEL_MULTIPLE}"
    if not config.residual and any(width % (2 * CHANNEL_MULTIPLE) for width in widths[1:]):
        return f"its channels {widths[1:]}, halved where the picture grows, are not multiples of {CHANNEL_MULTIPLE}"
    return None


def taps(layer: nn.Conv2d | nn.Conv3d) -> tuple[Tensor, Tensor]:
    """Weight (O, KT, KH, KW, C) and bias as the op takes them: views, unless O has to be filled up with zeros."""
    weight = layer.weight if layer.weight.ndim == 5 else layer.weight[:, :, None]
    weight_OIJKC, bias_O = weight.permute(0, 2, 3, 4, 1), layer.bias
    missing = -len(bias_O) % CHANNEL_MULTIPLE
    if missing:
        weight_OIJKC, bias_O = F.pad(weight_OIJKC, (0, 0) * 4 + (0, missing)), F.pad(bias_O, (0, missing))
    return weight_OIJKC, bias_O


def pointwise(layer: nn.Conv2d | nn.Conv3d, x_XC: Tensor) -> Tensor:
    """A convolution of one tap over (..., C)."""
    return F.linear(x_XC, layer.weight.flatten(1), layer.bias)


def bordered(x_NTHWC: Tensor) -> Tensor:
    return F.pad(x_NTHWC, (0, 0, 1, 1, 1, 1))


def enlarged(x_NTHWSC: Tensor) -> Tensor:
    """Every pixel four times and the S frames beside each other one after the other: (N, T S, 2 H + 2, 2 W + 2, C)."""
    batch, frames, height, width, parts, channels = x_NTHWSC.shape
    out = x_NTHWSC.new_empty((batch, frames, parts, 2 * height + 2, 2 * width + 2, channels))
    for edge in (0, -1):
        out[..., edge, :, :] = 0
        out[..., edge, :] = 0
    inner = out[..., 1:-1, 1:-1, :].unflatten(4, (width, 2)).unflatten(3, (height, 2))
    inner.copy_(x_NTHWSC.permute(0, 1, 4, 2, 3, 5)[:, :, :, :, None, :, None].expand(inner.shape))
    return out.flatten(1, 2)


def spread_out(shortcut: DupUp3D, x_NTYXC: Tensor, *, first: bool) -> Tensor:
    """Wan2.2's shortcut around a change of resolution: channels repeated and dealt out to frames, rows and columns."""
    time, space = shortcut.factor_t, shortcut.factor_s
    repeated = x_NTYXC[:, :, 1:-1, 1:-1].repeat_interleave(shortcut.repeats, dim=-1)
    parts = repeated.unflatten(-1, (shortcut.out_channels, time, space, space)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    frames = parts.flatten(5, 6).flatten(3, 4).flatten(1, 2)
    return bordered(frames[:, time - 1 :] if first else frames)


def attended(block: WanAttentionBlock, x_NTYXC: Tensor) -> Tensor:
    """x with the block's attention, frame by frame, added."""
    pixels = x_NTYXC[:, :, 1:-1, 1:-1]
    normed = F.normalize(pixels.float(), dim=-1) * block.norm.scale * block.norm.gamma.flatten()
    tokens_BLC = normed.to(pixels.dtype).flatten(0, 1).flatten(1, 2)
    q, k, v = pointwise(block.to_qkv, tokens_BLC)[:, None].chunk(3, dim=-1)
    y_BLC = pointwise(block.proj, F.scaled_dot_product_attention(q, k, v)[:, 0])
    return x_NTYXC + bordered(y_BLC.view(pixels.shape))
