"""Train the small video autoencoder until the mouth survives it.

Everything after the autoencoder works on its latents, so what it loses is lost for good: the loss weighs the mouth, and
the examination asks whether reconstructed mouths still open on time. Knows the losses, the noise on the latents and how
their statistics are folded into the weights that ship.

Shape suffixes: B clips, C channels, F frames, H W pixels; latents T h w.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from humo_rt.config import LATENT_CHANNELS, VAEConfig, preset
from humo_rt.model.vae import VideoVAE
from training.task import Moment
from training.tasks.mouth_reading import mouth_survival
from training.tasks.picture_loss import PictureLossConfig, attention, picture_loss, psnr
from training.tasks.pixel_pool import Cutting, PixelPool
from training.tasks.sources import ClipSize, ProceduralSource, SourceConfig

logger = logging.getLogger(__name__)

_EXAM_CLIPS_AT_ONCE = 8
_STILL_MOUTH = 0.05
_SHOWN_CLIPS = 2


def _people() -> ProceduralSource:
    return ProceduralSource(clips=3_000, utterances=1_500, captions=1, augment_audio=False)


@dataclass(frozen=True, kw_only=True)
class VAETaskConfig:
    """``cuts``: what the steps take in turn: (clips, frames, side of a square around the mouth or None for all of it).

    Squares show more of what is difficult; long cuts teach the caches far from the first frame. When all had their turn
    comes a step of ``stills`` reference images. ``latent_noise`` is the strongest noise added to the latents, in
    standard deviations of each channel: the decoder learns to forgive what a diffusion model gets slightly wrong.
    ``kl_weight`` times half the mean square of the latents only keeps their scale from drifting.
    """

    vae: VAEConfig = field(default_factory=lambda: preset("nano").vae)
    source: SourceConfig = field(default_factory=_people)
    size: ClipSize = field(default_factory=lambda: ClipSize(height=128, width=128, num_frames=97))
    cuts: tuple[tuple[int, int, int | None], ...] = ((16, 33, 64), (4, 33, None), (16, 33, 64), (8, 65, 64))
    stills: int = 32
    loss: PictureLossConfig = field(default_factory=PictureLossConfig)
    latent_noise: float = 0.15
    kl_weight: float = 1e-6
    channels_last: bool = True
    held_out_clips: int = 24
    validate_every: int = 250
    statistics_clips: int = 128


class VAETask:
    """Trains ``VideoVAE`` on clips of any source; see ``training.task.Task``."""

    def __init__(self, config: VAETaskConfig) -> None:
        self.config = config

    def build(self, device: torch.device) -> nn.Module:
        with torch.device(device):
            model = VideoVAE(self.config.vae)
        if self.config.channels_last and device.type == "cuda":
            _channels_last(model)
        return model

    def trainable(self, name: str) -> bool:
        return True

    def prepare(self, device: torch.device, rank: int, world_size: int) -> None:
        config = self.config
        self.device = device
        self.pool = PixelPool.fill(config.source.open("train", None, config.size, device), device)
        held_out = config.source.open("heldout", config.held_out_clips, config.size, device)
        self.held_out = PixelPool.fill(held_out, device)

    def batch(self, moment: Moment) -> Cutting:
        config, generator = self.config, moment.generator(self.device, "clips")
        turn = moment.step % (len(config.cuts) + bool(config.stills))
        if turn == len(config.cuts):
            return self.pool.stills(config.stills, generator)
        return self.pool.cut(*config.cuts[turn], generator)

    def loss(self, model: nn.Module, batch: Cutting, moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        config, true = self.config, batch.video_BCFHW
        latents = model.encode(true)
        made = model.decode(self._disturb(latents, moment.generator(self.device, "noise")))
        weight = attention(batch.face_BFHW, batch.mouth_BFHW, config.loss)
        error = picture_loss(made, true, weight, config.loss)
        loss = error + config.kl_weight * 0.5 * latents.square().mean()
        kind = "stills" if true.shape[2] == 1 else "whole" if true.shape[-1] == config.size.width else "squares"
        scalars = {f"{kind}/loss": error, f"{kind}/psnr": psnr(made, true).mean()}
        if moment.step % config.validate_every == 0:
            scalars |= self.examine(model)
        return loss, {name: value.detach() for name, value in scalars.items()}

    @torch.no_grad()
    def examine(self, model: nn.Module) -> dict[str, Tensor]:
        """Whole held-out clips through the autoencoder: PSNR (dB), mouth correlation, and the best it could have."""
        columns: dict[str, list[Tensor]] = {"psnr": [], "mouth_true": [], "mouth": []}
        for first in range(0, len(self.held_out), _EXAM_CLIPS_AT_ONCE):
            clips = self.held_out.whole(first, _EXAM_CLIPS_AT_ONCE)
            made = model.decode(model.encode(clips.video_BCFHW)).clamp(-1, 1)
            moving = _moves(clips.mouth_BFHW)
            read = mouth_survival(clips.video_BCFHW, made, clips.mouth_BFHW)
            columns["psnr"].append(psnr(made, clips.video_BCFHW))
            for name, values in zip(("mouth_true", "mouth"), read, strict=True):
                columns[name].append(torch.where(moving, values, torch.nan))
        return {f"held_out/{name}": torch.cat(values).nanmean() for name, values in columns.items()}

    @torch.no_grad()
    def samples(self, model: nn.Module, step: int) -> dict[str, Tensor]:
        """Held-out clips, true beside reconstructed."""
        true = self.held_out.whole(0, _SHOWN_CLIPS).video_BCFHW
        both = torch.cat([true, model.decode(model.encode(true)).clamp(-1, 1)], dim=-1)
        frames = ((both + 1) * 127.5).round().to(torch.uint8).transpose(1, 2)
        return {f"reconstruction_{i}": video for i, video in enumerate(frames)}

    def export(self, state_dict: dict[str, Tensor], path: Path) -> None:
        """Write diffusers' ``AutoencoderKLWan`` state dict in float16, its latents normalised as the config says."""
        from humo_rt.weights.save import save_published

        model = VideoVAE(self.config.vae).to(self.device)
        model.load_state_dict(state_dict)
        fold_statistics(model, *self._statistics(model), posterior_std=self.config.latent_noise)
        shipped = {name: value.half() for name, value in model.autoencoder.state_dict().items()}
        model.autoencoder.load_state_dict(shipped)
        scores = {name: round(float(value), 3) for name, value in self.examine(model).items()}
        mean, std = self._statistics(model)
        logger.info("video autoencoder: %s, latents %s", scores, f"mean {mean.abs().max():.3f} std {std.mean():.3f}")
        save_published(shipped, path, "file")

    def _disturb(self, latents_BCThw: Tensor, generator: torch.Generator) -> Tensor:
        """Add noise of a random strength to every clip, relative to each channel's spread."""
        spread = latents_BCThw.detach().std(dim=(0, 2, 3, 4), keepdim=True)
        strength = torch.rand((len(latents_BCThw), 1, 1, 1, 1), generator=generator, device=self.device)
        noise = torch.randn(latents_BCThw.shape, generator=generator, device=self.device)
        return latents_BCThw + self.config.latent_noise * strength * spread * noise

    @torch.no_grad()
    def _statistics(self, model: VideoVAE) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every latent channel over whole clips of the pool: (16,) each, float64."""
        count = torch.zeros((), dtype=torch.float64, device=self.device)
        first, second = (torch.zeros(LATENT_CHANNELS, dtype=torch.float64, device=self.device) for _ in range(2))
        for start in range(0, min(self.config.statistics_clips, len(self.pool)), _EXAM_CLIPS_AT_ONCE):
            latents = model.encode(self.pool.whole(start, _EXAM_CLIPS_AT_ONCE).video_BCFHW).double()
            count += latents[:, 0].numel()
            first += latents.sum(dim=(0, 2, 3, 4))
            second += latents.square().sum(dim=(0, 2, 3, 4))
        mean = first / count
        return mean, (second / count - mean.square()).clamp(min=1e-12).sqrt()


@torch.no_grad()
def fold_statistics(model: VideoVAE, mean_C: Tensor, std_C: Tensor, *, posterior_std: float) -> None:
    """Make normalised latents of mean ``mean_C`` and deviation ``std_C`` come out as mean 0 and deviation 1, in place.

    Only the pointwise convolutions around the latents change, so reconstructions stay. The log variance, which is not
    trained, becomes the constant of a posterior ``posterior_std`` wide.
    """
    inner, outer = model.autoencoder.quant_conv, model.autoencoder.post_quant_conv
    target_mean, target_std = (x.flatten().double() for x in model._statistics(mean_C.device))
    # The autoencoder's own latents are z * target_std + target_mean, for z the normalised ones that were measured.
    scale = (1.0 / std_C)[:, None, None, None, None]
    shift = target_mean - (target_mean + mean_C * target_std) / std_C
    weight, bias = (p[:LATENT_CHANNELS].double() for p in (inner.weight, inner.bias))
    inner.weight[:LATENT_CHANNELS] = (weight * scale).to(inner.weight)
    inner.bias[:LATENT_CHANNELS] = (bias / std_C + shift).to(inner.bias)
    inner.weight[LATENT_CHANNELS:] = 0.0
    inner.bias[LATENT_CHANNELS:] = 2 * math.log(max(posterior_std, 1e-3)) + 2 * target_std.log().to(inner.bias)
    # The decoder gets u = (x - shift) * std instead of x: fold that into its first convolution.
    weight, bias = (p.double() for p in (outer.weight, outer.bias))
    outer.bias.copy_(bias - (weight[..., 0, 0, 0] @ (shift * std_C)))
    outer.weight.copy_(weight * std_C[:, None, None, None])


def _moves(mouth_BFHW: Tensor) -> Tensor:
    """Which clips have a mouth that opens and closes; the others have nothing to survive."""
    size_BF = mouth_BFHW.float().sum(dim=(2, 3))
    return size_BF.std(dim=1) > _STILL_MOUTH * size_BF.mean(dim=1).clamp(min=1.0)


def _channels_last(model: nn.Module) -> None:
    """Put kernels into the order that convolutions in half precision are fastest with; shapes stay."""
    orders = {5: torch.channels_last_3d, 4: torch.channels_last}
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=orders[module.weight.dim()])
