"""What the model makes of a few held-out clips, for the log: true video beside generated video.

Knows the sampler and the autoencoder. Sharded models are not sampled: the sampler calls parts of the model whose
weights are gathered only inside its forward pass.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from humo_rt.conditions.audio import window_audio
from humo_rt.conditions.image import grey_latents
from humo_rt.model.vae import VideoVAE
from humo_rt.sampling.branches import Conditions
from humo_rt.sampling.denoise import denoise
from humo_rt.sampling.guidance import guidance_table
from humo_rt.sampling.schedule import make_scheduler
from training.task import derive_seed
from training.tasks.dit_config import DiTTaskConfig
from training.tasks.encode_pool import encode_pool
from training.tasks.frozen import Frozen
from training.tasks.pool import LatentPool

logger = logging.getLogger(__name__)

_MODES = {"base": "T", "subject": "TI", "sync": "TIA"}


@dataclass(frozen=True)
class Preview:
    """Encoded held-out clips, the autoencoder to decode with, and grey latents for models that need them."""

    pool: LatentPool
    vae: VideoVAE
    grey_CTHW: Tensor | None

    @torch.no_grad()
    def render(self, model: nn.Module, config: DiTTaskConfig) -> dict[str, Tensor] | None:
        """Name -> uint8 (frames, 3, height, 2 * width): the true clip, then the generated one."""
        from torch.distributed.fsdp import FSDPModule

        if isinstance(model, FSDPModule):
            logger.info("no sample videos: the model is sharded")
            return None
        mode = _MODES[config.stage]
        device = self.pool.device
        true = self.pool.latents_NCTHW[:, :, : config.latent_frames].float()
        conditions = self._conditions(mode, config)
        shape = (*true.shape[:2], true.shape[2] + conditions.num_slots, *true.shape[3:])
        noise = torch.randn(shape, generator=torch.Generator(device).manual_seed(derive_seed("preview")), device=device)
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
        with torch.compiler.set_stance("force_eager"), autocast:
            made = denoise(
                model,
                conditions,
                noise,
                guidance=guidance_table(config.model, mode),
                scheduler=make_scheduler(config.preview_steps, config.model.flow_shift, device=device),
            )
        pairs = zip(self._decode(true), self._decode(made), strict=True)
        return {f"{mode}-{i}": torch.cat(pair, dim=-1) for i, pair in enumerate(pairs)}

    def _conditions(self, mode: str, config: DiTTaskConfig) -> Conditions:
        pool, slots = self.pool, config.slots
        audio = window_audio(pool.audio_NFBA.float(), config.latent_frames) if "A" in mode else None
        repeated = torch.arange(slots, device=pool.device) % pool.references_NCRHW.shape[2]
        references = pool.references_NCRHW[:, :, repeated].float() if "I" in mode else None
        return Conditions(
            text_embeds=list(pool.text_ULE[pool.named_NV[:, 0]].float()),
            negative_embeds=pool.text_ULE[0].float(),
            audio=audio,
            reference_latents=references,
            grey_latents=self.grey_CTHW,
        )

    def _decode(self, latents_NCTHW: Tensor) -> Tensor:
        """uint8 (N, frames, 3, height, width)."""
        videos = [
            torch.cat(list(self.vae.decode_chunks(one[None])), dim=2)[0].add(1).mul(127.5).round().to(torch.uint8).cpu()
            for one in latents_NCTHW
        ]
        return torch.stack(videos).transpose(1, 2)


def make_preview(config: DiTTaskConfig, frozen: Frozen, device: torch.device) -> Preview:
    """Encode ``config.previews`` held-out clips."""
    source = config.source.open("heldout", config.previews, config.size, device)
    pool = encode_pool(source, frozen, config.encode, text_len=config.model.dit.text_len)
    grey = None
    if config.model.dit.image_injection == "channels":
        frames = config.latent_frames + config.slots
        grey = grey_latents(frozen.vae, frames, *pool.latents_NCTHW.shape[-2:])
    return Preview(pool, frozen.vae, grey)
