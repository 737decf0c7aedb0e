"""The diffusion transformer as a task: base, subject preservation, audio-visual sync.

Brings together the pool of encoded clips, the choice of samples and the losses, and says what each stage trains. Knows
nothing of optimisers, steps or files of a run.

Shape suffixes: B clips, C latent channels, T latent frames, S reference slots, H W latent cells.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from humo_rt.conditions.image import assemble_condition, grey_latents
from humo_rt.config import SPATIAL_STRIDE
from humo_rt.model.dit import HumoDiT
from humo_rt.weights.names import dit_name
from humo_rt.weights.save import save_published
from training import losses
from training.clips import ClipSource, Keyed, contents
from training.task import Moment
from training.tasks.choice import ConditionDrop, choose
from training.tasks.dit_config import DiTTaskConfig
from training.tasks.encode_pool import encode_pool
from training.tasks.encode_workers import Job, encode_with_workers
from training.tasks.frozen import Frozen, load_frozen
from training.tasks.host_pool import HostPool, encode_to_files
from training.tasks.initial import initial_value
from training.tasks.pool import Batch, LatentPool
from training.tasks.preview import Preview, make_preview

logger = logging.getLogger(__name__)

SELF_ATTENTION = ".self_attn."
AUDIO_MODULES = (".audio_cross_attn_wrapper.", "audio_proj.")
MASK_PREDICTOR = "mask_predictor."


class DiTTask:
    def __init__(self, config: DiTTaskConfig) -> None:
        self.config = config
        self.pool: LatentPool | HostPool | None = None
        self.preview: Preview | None = None
        self._grey: Tensor | None = None
        self._heard: Tensor | None = None

    def prepare(self, device: torch.device, rank: int, world_size: int) -> None:
        """Encode the pool (or read it back) and the held-out clips that are sampled for the log."""
        config = self.config
        cache = Path(config.pool_cache) if config.pool_cache else None
        if cache and cache.exists() and cache.is_dir() != (config.pool == "host"):
            kind = "a folder" if cache.is_dir() else "a file"
            raise ValueError(f"pool_cache {str(cache)!r} is {kind}, pool={config.pool!r} needs the other: name another")
        dtype = getattr(torch, config.encoder_precision)
        frozen = load_frozen(config.model, Path(config.weights), device, dtype)
        self.pool = self._pool(frozen, device, rank, world_size)
        heard = self.pool.heard_N.cpu()
        if config.stage == "sync" and not heard.any():
            raise ValueError("none of the clips has sound, so there is nothing for stage 'sync' to learn: add clips")
        self._heard = None if heard.all() else heard.nonzero()[:, 0]
        if config.previews:
            self.preview = make_preview(config, frozen, device)
        if config.model.dit.image_injection == "channels":
            cells = (config.size.height // SPATIAL_STRIDE, config.size.width // SPATIAL_STRIDE)
            self._grey = grey_latents(frozen.vae, config.latent_frames + config.slots, *cells)

    def build(self, device: torch.device) -> nn.Module:
        with torch.device("meta"):
            model = HumoDiT(self.config.model.dit)
        if device.type != "meta":
            values = {name: initial_value(name, p.shape, self.config.init_seed) for name, p in model.named_parameters()}
            model.load_state_dict(values, assign=True)
            model.to(device)
        model.patch_embedding.register_forward_hook(_as_if_trained)
        return model

    def trainable(self, name: str) -> bool:
        audio = any(part in f".{name}" for part in AUDIO_MODULES)
        predictor = name.startswith(MASK_PREDICTOR)
        if self.config.stage == "base":
            return not audio and not predictor
        if self.config.stage == "subject":
            return SELF_ATTENTION in name
        return SELF_ATTENTION in name or audio or (predictor and self.config.focus)

    def adopt(self, state_dict: dict[str, Tensor], expected: dict[str, torch.Size]) -> dict[str, Tensor]:
        """Weights of an earlier stage, of a published HuMo or of plain Wan2.1, completed to a whole model.

        Audio modules and mask predictor may be missing; a patch embedding of fewer input channels is widened by zeros.
        """
        given = {target: value for name, value in state_dict.items() if (target := dit_name(name))}
        shapes_only = any(value.is_meta for value in given.values())
        complete, missing, misshapen = {}, [], []
        for name, shape in expected.items():
            value = given.pop(name, None)
            is_new = name.startswith(MASK_PREDICTOR) or any(part in f".{name}" for part in AUDIO_MODULES)
            if value is None:
                missing += [] if is_new else [name]
                seed = self.config.init_seed
                value = torch.empty(shape, device="meta") if shapes_only else initial_value(name, shape, seed)
            elif name == "patch_embedding.weight" and value.shape[1] < shape[1]:
                added = value.new_zeros(shape[0], shape[1] - value.shape[1], *shape[2:])
                value = torch.cat([value, added], dim=1)
            misshapen += [] if value.shape == shape else [f"{name} {tuple(value.shape)} instead of {tuple(shape)}"]
            complete[name] = value.float()
        if problems := missing + misshapen + sorted(given):
            raise ValueError(
                f"these weights do not start {self.config.model.name}: {len(missing)} tensors missing, "
                f"{len(misshapen)} misshapen, {len(given)} unknown ({', '.join(problems[:6])}); give its own stages'"
            )
        return complete

    def batch(self, moment: Moment) -> Batch:
        config = self.config
        assert self.pool is not None, "prepare() comes before batch()"
        sync_B = config.curriculum.is_sync(moment, config.batch_size)
        choice = choose(
            moment,
            config.batch_size,
            len(self.pool),
            drop=self._drop(),
            anonymous=config.anonymous,
            sync_B=sync_B,
            heard=self._heard if config.stage == "sync" else None,
        )
        with_audio = config.stage == "sync"
        return self.pool.gather(choice, frames=config.latent_frames, slots=config.slots, with_audio=with_audio)

    def loss(self, model: nn.Module, batch: Batch, moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        config, clean = self.config, batch.latents_BCTHW
        generator = moment.generator(clean.device, "noise")
        sigma_B = losses.draw_sigmas(clean.shape[0], generator, shift=config.timestep_shift)
        noise = self._noise(batch, generator)
        frames = clean.shape[2]
        x, condition = self._inputs(batch, noise, sigma_B)
        focus = config.stage == "sync" and config.focus
        answer = model(
            x,
            1000.0 * sigma_B,
            text_embeds=batch.text_BLE,
            audio=batch.audio_BTWNA,
            condition=condition,
            return_face_mask=focus,
        )
        velocity, logits = answer if focus else (answer, None)
        velocity_B = losses.velocity_loss(
            velocity, clean, noise[:, :, :frames], emphasis_BTHW=batch.mouth_BTHW, emphasis=config.mouth_emphasis
        )
        total = velocity_B.mean()
        scalars = {"velocity": total.detach()}
        if logits is not None:
            mask = _mean_where(batch.masked_B, losses.mask_loss(logits, batch.face_BTHW))
            iou = _mean_where(batch.masked_B, losses.mask_iou(logits, batch.face_BTHW))
            scalars |= {"mask": mask.detach(), "mask_iou": iou}
            total = total + config.mask_weight * mask
        return total, scalars

    def export(self, state_dict: dict[str, Tensor], path: Path) -> None:
        """Write the DiT under its published names, in the layout and dtype of the configuration.

        Published layouts have no mask predictor: it goes into a file of its own beside them.
        """
        dtype, layout = getattr(torch, self.config.export_dtype), self.config.export_layout
        tensors = {name: value.to(dtype) for name, value in state_dict.items()}
        if layout == "file":
            save_published(tensors, path, layout)
            return
        predictor = {name: tensors.pop(name) for name in list(tensors) if name.startswith(MASK_PREDICTOR)}
        save_published(tensors, path.parent, layout)
        if predictor:
            save_published(predictor, path.with_name("mask_predictor.safetensors"), "file")

    def samples(self, model: nn.Module, step: int) -> dict[str, Tensor] | None:
        return None if self.preview is None else self.preview.render(model, self.config)

    def _pool(self, frozen: Frozen, device: torch.device, rank: int, world_size: int) -> LatentPool | HostPool:
        """The encoded clips: read back where ``pool_cache`` holds them, encoded otherwise."""
        config = self.config
        encode_config = replace(config.encode, workers=1)  # how many work on it does not change a pool
        settings = (
            f"{contents(config.source)} {config.size!r} {encode_config!r} {config.encoder_precision} "
            f"{config.model.dit.text_len} {frozen.identity}"
        )

        def identity(source: ClipSource) -> str:
            keys = source.keys(range(len(source))) if isinstance(source, Keyed) else ()
            return hashlib.blake2b("\n".join((settings, *keys)).encode(), digest_size=16).hexdigest()

        path = Path(config.pool_cache) if config.pool_cache else None
        source = config.source.open("train", None, config.size, device)
        if path and config.pool == "device" and (stored := LatentPool.load(path, identity(source), device)):
            logger.info("%d clips read from %s", len(stored), path)
            return stored
        encode = partial(encode_pool, frozen=frozen, config=config.encode, text_len=config.model.dit.text_len)
        shared = {"rank": rank, "world_size": world_size}
        if config.pool == "host":
            return encode_to_files(
                source, encode, path, identity, device, clips_per_file=config.clips_per_file, **shared
            )
        if config.encode.workers > 1 and world_size == 1:
            pool = encode_with_workers(self._job(device), frozen)
        else:
            pool = encode(source, **shared)
        if path and rank == 0:
            pool.save(path, identity(source))
        return pool

    def _job(self, device: torch.device) -> Job:
        config = self.config
        return Job(
            source=config.source,
            size=config.size,
            model=config.model,
            weights=config.weights,
            encoder_precision=config.encoder_precision,
            encode=config.encode,
            device=device,
        )

    def _drop(self) -> ConditionDrop:
        """The base stage never sees a reference."""
        if self.config.stage != "base":
            return self.config.drop
        return ConditionDrop(caption=self.config.drop.caption, image=1.0, audio=0.0, image_and_audio=0.0)

    def _noise(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Noise for video frames and slots, (B, 16, T + S, H, W)."""
        count, channels, frames, height, width = batch.latents_BCTHW.shape
        shape = (count, channels, frames + batch.references_BCSHW.shape[2], height, width)
        return torch.randn(shape, generator=generator, device=batch.latents_BCTHW.device)

    def _inputs(self, batch: Batch, noise: Tensor, sigma_B: Tensor) -> tuple[Tensor, Tensor | None]:
        """What enters the network: noisy latents with the slots at the end, and the condition channels if it has them.

        ``"frames"`` models see clean references in the slots. ``"channels"`` models see them in the condition; the
        slots' own latents are noised like the video's, which is how the sampler treats them.
        """
        frames = batch.latents_BCTHW.shape[2]
        if self._grey is None:
            noisy = losses.add_noise(batch.latents_BCTHW, noise[:, :, :frames], sigma_B)
            return torch.cat([noisy, batch.references_BCSHW], dim=2), None
        null_CSHW = self._grey[:, frames:].to(noise)
        references = torch.where(batch.image_B.view(-1, 1, 1, 1, 1), batch.references_BCSHW, null_CSHW)
        condition = torch.stack([assemble_condition(self._grey.to(noise), frames, one) for one in references])
        clean = torch.cat([batch.latents_BCTHW, references], dim=2)
        return losses.add_noise(clean, noise, sigma_B), condition


def _as_if_trained(module: nn.Module, inputs: object, tokens: Tensor) -> Tensor:
    """Tokens that ask for a gradient even where nothing before the blocks is trained.

    Later blocks see such tokens in any case; a first block that saw others would be compiled a second time.
    """
    return tokens if tokens.requires_grad or not torch.is_grad_enabled() else tokens.requires_grad_()


def _mean_where(known_B: Tensor, values_B: Tensor) -> Tensor:
    """Mean of the values that are known; 0 when none is."""
    return (values_B * known_B).sum() / known_B.sum().clamp_min(1)
