"""Encoded clips, kept on the device: what the DiT is trained on, step after step, without touching data again.

Knows tensors and the positions of captions. Encoding is ``training.tasks.encode_pool``; which clip is taken when is
``training.tasks.choice``.

Shape suffixes: N clips in the pool, B in a batch, C latent channels, T latent frames, H W latent cells, R references
of a clip, S reference slots, F audio frames (25 Hz), A audio width, U distinct captions, L tokens, E text width,
V caption variants.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from humo_rt.conditions.audio import window_index
from training.tasks.choice import Choice

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Conditions already dropped: text is the empty prompt's, images and sound are zeros where a sample goes without.

    latents_BCTHW float32; references_BCSHW float32; image_B bool; text_BLE; audio_BTWNA windowed, for video frames and
    slots, or None; face_BTHW and mouth_BTHW float 0/1, the faces known where masked_B.
    """

    latents_BCTHW: Tensor
    references_BCSHW: Tensor
    image_B: Tensor
    text_BLE: Tensor
    audio_BTWNA: Tensor | None
    face_BTHW: Tensor
    mouth_BTHW: Tensor
    masked_B: Tensor


@dataclass(frozen=True, kw_only=True)
class LatentPool:
    """``named_NV`` and ``anonymous_NV`` are rows of ``text_ULE``; row 0 is the empty prompt.

    ``masked_N`` and ``heard_N`` say which clips have a face mask and sound. Half precision except where counted.
    """

    latents_NCTHW: Tensor
    references_NCRHW: Tensor
    audio_NFBA: Tensor
    heard_N: Tensor
    face_NTHW: Tensor
    mouth_NTHW: Tensor
    masked_N: Tensor
    text_ULE: Tensor
    named_NV: Tensor
    anonymous_NV: Tensor

    def __len__(self) -> int:
        return self.latents_NCTHW.shape[0]

    @property
    def device(self) -> torch.device:
        return self.latents_NCTHW.device

    def nbytes(self) -> int:
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    def gather(self, choice: Choice, *, frames: int, slots: int, with_audio: bool) -> Batch:
        """The chosen samples with ``slots`` references; the first ``frames`` of causal latents are a shorter clip."""
        choice = choice.to(self.device)
        clip_B, image_B = choice.clip_B, choice.image_B
        audio = self._windows(clip_B, choice.audio_B & self.heard_N[clip_B], frames, slots) if with_audio else None
        rows_BV = torch.where(choice.anonymous_B[:, None], self.anonymous_NV[clip_B], self.named_NV[clip_B])
        row_B = rows_BV.gather(1, _pick(choice.caption_B, rows_BV.shape[1])[:, None])[:, 0]
        return Batch(
            latents_BCTHW=self.latents_NCTHW[clip_B, :, :frames].float(),
            references_BCSHW=self._references(clip_B, choice.reference_B, image_B, slots),
            image_B=image_B,
            # Float32, because the model stacks texts, and stacking refuses to mix halves under autocast.
            text_BLE=self.text_ULE[row_B * choice.text_B].float(),
            audio_BTWNA=audio,
            face_BTHW=self.face_NTHW[clip_B, :frames].float(),
            mouth_BTHW=self.mouth_NTHW[clip_B, :frames].float(),
            masked_B=self.masked_N[clip_B],
        )

    def save(self, path: Path, identity: str) -> None:
        """Write the pool to a file that ``load`` accepts again only for the same ``identity``."""
        from safetensors.torch import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.part")
        tensors = {field.name: getattr(self, field.name).contiguous() for field in fields(self)}
        save_file(tensors, partial, metadata={"identity": identity})
        partial.replace(path)

    @classmethod
    def load(cls, path: Path, identity: str, device: torch.device) -> LatentPool | None:
        """The pool stored at ``path``, or None when there is none or it was made from something else."""
        if not path.is_file():
            return None
        if identity_of(path) != identity:
            logger.info("%s is damaged, or was made with other data or weights: encoding anew", path)
            return None
        return cls.read(path, device)

    @classmethod
    def read(cls, path: Path, device: torch.device) -> LatentPool:
        """The pool stored at ``path``; on the CPU its tensors are mapped, not read."""
        from safetensors import safe_open

        with safe_open(path, framework="pt", device=str(device)) as file:
            return cls(**{field.name: file.get_tensor(field.name) for field in fields(cls)})

    def _references(self, clip_B: Tensor, reference_B: Tensor, image_B: Tensor, slots: int) -> Tensor:
        """``slots`` different references of every clip, zeros (the null image) where ``image_B`` is False."""
        count = self.references_NCRHW.shape[2]
        rows_BS = (_pick(reference_B, count)[:, None] + torch.arange(slots, device=self.device)) % count
        picked_BSCHW = self.references_NCRHW[clip_B[:, None], :, rows_BS]
        return picked_BSCHW.transpose(1, 2).float() * image_B.view(-1, 1, 1, 1, 1)

    def _windows(self, clip_B: Tensor, audio_B: Tensor, frames: int, slots: int) -> Tensor:
        embeds_BFBA = self.audio_NFBA[clip_B] * audio_B.view(-1, 1, 1, 1)
        # Audio frame F is one of zeros: what windows reach beyond the sound, and all that reference slots hear.
        padded = torch.cat([embeds_BFBA, torch.zeros_like(embeds_BFBA[:, :1])], dim=1)
        return padded[:, _window_table(frames, slots, embeds_BFBA.shape[1], self.device)]


def identity_of(path: Path) -> str | None:
    """What the pool stored at ``path`` was made from; None where there is none that can be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("identity")
    except (FileNotFoundError, SafetensorError):
        return None


@lru_cache(maxsize=8)
def _window_table(frames: int, slots: int, sound: int, device: torch.device) -> Tensor:
    """Audio frame behind every window slot of video frames and reference slots, ``sound`` for zeros: (T, 8).

    Kept on the device: copying it there at every step would make the host wait.
    """
    index = window_index(frames, sound)
    silent = index.new_full((slots, index.shape[1]), -1)
    table = torch.cat([index, silent])
    return torch.where(table < 0, sound, table).to(device)


def _pick(share_B: Tensor, count: int) -> Tensor:
    """0..1 to 0..count-1."""
    return (share_B * count).long().clamp_max(count - 1)
