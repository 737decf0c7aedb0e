"""A loaded model driven in batches: many clips per denoise loop, for evaluation.

Uses the runtime's own conditions, guidance, sampler and autoencoder, so a score here is a score of the pipeline. Knows
nothing of judges or metrics. Every clip has its own noise, so the batch size does not change a video's noise.

Shape legend: N clips, F video frames, C channels, T latent frames, H height, W width, S audio samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from humo_rt.conditions.audio import AudioConditioner, append_reference_frames, window_audio
from humo_rt.conditions.face import mask_to_latent_grid
from humo_rt.conditions.image import grey_latents
from humo_rt.conditions.text import TextConditioner
from humo_rt.config import LATENT_CHANNELS, SPATIAL_STRIDE, TEMPORAL_STRIDE
from humo_rt.sampling.branches import Conditions
from humo_rt.sampling.denoise import denoise
from humo_rt.sampling.guidance import guidance_table
from humo_rt.sampling.reuse import GuidanceReuse
from humo_rt.sampling.schedule import make_scheduler
from training.losses import add_noise, mask_iou
from training.task import derive_seed

if TYPE_CHECKING:
    from humo_rt.weights.components import Components

MASK_TIMESTEPS = (200, 400, 600, 800)


@dataclass(frozen=True, kw_only=True)
class Scales:
    """Guidance scales; None takes the model's default."""

    text: float | None = None
    audio: float | None = None
    image: float | None = None


DEFAULT_SCALES = Scales()


@dataclass(frozen=True, kw_only=True)
class Order:
    """Videos to generate: one prompt per clip; references (N, 3, H, W) uint8 and sound (N, S) are optional."""

    prompts: Sequence[str]
    height: int
    width: int
    num_frames: int
    references_NCHW: Tensor | None = None
    audio_NS: Tensor | None = None
    scales: Scales = DEFAULT_SCALES

    def __len__(self) -> int:
        return len(self.prompts)

    def part(self, start: int, stop: int) -> Order:
        """Clips ``start..stop`` of this order."""
        return replace(
            self,
            prompts=self.prompts[start:stop],
            references_NCHW=None if self.references_NCHW is None else self.references_NCHW[start:stop],
            audio_NS=None if self.audio_NS is None else self.audio_NS[start:stop],
        )


# What the protocol needs of a model: an order in, uint8 videos (N, F, 3, H, W) out.
Generator = Callable[[Order], Tensor]


class BatchGenerator:
    """Turns orders into videos, ``batch_size`` clips at a time."""

    def __init__(
        self,
        components: Components,
        *,
        steps: int,
        seed: int = 0,
        batch_size: int = 32,
        reuse: GuidanceReuse | None = None,
    ) -> None:
        self.config = components.config
        self.dit, self.vae = components.dit, components.vae
        self.text = TextConditioner(components.tokenizer, components.text_encoder, self.config.dit.text_len)
        self.audio = AudioConditioner(components.audio_encoder)
        self.device = next(self.dit.parameters()).device
        self.steps, self.seed, self.batch_size, self.reuse = steps, seed, batch_size, reuse

    @torch.no_grad()
    def __call__(self, order: Order) -> Tensor:
        """Generate every clip of the order: uint8 (N, F, 3, H, W) on the model's device."""
        starts = range(0, len(order), self.batch_size)
        return torch.cat([self._generate(order.part(start, start + self.batch_size), start) for start in starts])

    @torch.no_grad()
    def reconstruct(self, video_NFCHW: Tensor) -> Tensor:
        """Encode and decode: the best any generated video could look."""
        return torch.cat([self._decode(self._encode(part)) for part in video_NFCHW.split(self.batch_size)])

    @torch.no_grad()
    def mask_iou(self, order: Order, video_NFCHW: Tensor, face_NFHW: Tensor) -> dict[int, Tensor]:
        """Timestep -> IoU per clip (N,) of the predicted face mask, while denoising the true ``video``.

        The true video is noised to each timestep, and the model sees every condition of the order.
        """
        parts: dict[int, list[Tensor]] = {timestep: [] for timestep in MASK_TIMESTEPS}
        for start in range(0, len(order), self.batch_size):
            part = order.part(start, start + self.batch_size)
            conditions, noise = self._conditions(part), self._noise(part, 0, start)
            latents = self._encode(video_NFCHW[start : start + self.batch_size])
            target = mask_to_latent_grid(face_NFHW[start : start + self.batch_size].to(self.device))
            for timestep in MASK_TIMESTEPS:
                noisy = add_noise(latents, noise, torch.full((len(part),), timestep / 1000, device=self.device))
                parts[timestep].append(mask_iou(self._mask_logits(conditions, noisy, timestep), target))
        return {timestep: torch.cat(values) for timestep, values in parts.items()}

    def _generate(self, order: Order, start: int) -> Tensor:
        conditions = self._conditions(order)
        scales = {
            "guidance_scale": order.scales.text,
            "audio_guidance_scale": order.scales.audio,
            "image_guidance_scale": order.scales.image,
        }
        latents = denoise(
            self.dit,
            conditions,
            self._noise(order, conditions.num_slots, start),
            guidance=guidance_table(self.config, conditions.mode, **scales),
            scheduler=make_scheduler(self.steps, self.config.flow_shift, device=self.device),
            reuse=self.reuse,
        )
        return self._decode(latents)

    def _conditions(self, order: Order) -> Conditions:
        *texts, negative = self.text.encode([*order.prompts, self.config.negative_prompt])
        latent_frames = _latent_frames(order)
        audio = references = grey = None
        if order.audio_NS is not None:
            embeds = torch.cat([self.audio.embed_batch(part) for part in order.audio_NS.split(16)])
            audio = window_audio(embeds, latent_frames)
        if order.references_NCHW is not None:
            references = self._encode(order.references_NCHW[:, None])
        if self.config.dit.image_injection == "channels":
            grey = grey_latents(
                self.vae, latent_frames + 1, order.height // SPATIAL_STRIDE, order.width // SPATIAL_STRIDE
            )
        return Conditions(
            text_embeds=texts,
            negative_embeds=negative,
            audio=audio,
            reference_latents=references,
            grey_latents=grey,
        )

    def _mask_logits(self, conditions: Conditions, noisy_NCTHW: Tensor, timestep: int) -> Tensor:
        """Logits for the video's frames, and for the reference's behind them."""
        assert self.config.dit.image_injection == "frames", "masks are evaluated for models with frame injection"
        slot = conditions.reference_latents
        slot = torch.zeros_like(noisy_NCTHW[:, :, :1]) if slot is None else slot.to(noisy_NCTHW)
        audio = None if conditions.audio is None else append_reference_frames(conditions.audio, slot.shape[2])
        _, logits = self.dit(
            torch.cat([noisy_NCTHW, slot], dim=2),
            torch.full((len(noisy_NCTHW),), timestep, device=self.device),
            text_embeds=conditions.text_embeds,
            audio=audio,
            return_face_mask=True,
        )
        return logits

    def _noise(self, order: Order, slots: int, start: int) -> Tensor:
        rows, columns = order.height // SPATIAL_STRIDE, order.width // SPATIAL_STRIDE
        shape = (LATENT_CHANNELS, _latent_frames(order) + slots, rows, columns)
        seeds = [derive_seed(self.seed, "noise", start + i) for i in range(len(order))]
        generators = [torch.Generator(self.device).manual_seed(seed) for seed in seeds]
        return torch.stack([torch.randn(shape, generator=one, device=self.device) for one in generators])

    def _encode(self, video_NFCHW: Tensor) -> Tensor:
        weight = next(self.vae.parameters())
        video = video_NFCHW.to(self.device).transpose(1, 2).to(weight.dtype) / 127.5 - 1
        return torch.cat([self.vae.encode(part) for part in video.split(16)])

    def _decode(self, latents_NCTHW: Tensor) -> Tensor:
        videos = []
        for part in latents_NCTHW.split(16):
            blocks = [block.add(1).mul(127.5).round().to(torch.uint8) for block in self.vae.decode_chunks(part)]
            videos.append(torch.cat(blocks, dim=2).transpose(1, 2))
        return torch.cat(videos)


def _latent_frames(order: Order) -> int:
    return (order.num_frames - 1) // TEMPORAL_STRIDE + 1
