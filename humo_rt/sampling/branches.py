"""What each guidance branch feeds the model, and the guided velocity of one step.

Shape legend: N videos, R reference slots, C 16 latent channels, T latent frames with the R slots last, F = T - R video
latent frames, H W latent size, L text tokens, E text width, A audio width, P speakers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from humo_rt.conditions.audio import append_reference_frames
from humo_rt.conditions.image import assemble_condition
from humo_rt.model.dit import Context, HumoDiT
from humo_rt.model.embeddings import rope_table
from humo_rt.model.face_tokens import FaceTokens, TokenGroup
from humo_rt.sampling.predicted_faces import PredictedFaces


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Everything the denoise loop is conditioned on, for N videos of one size.

    text_embeds: N prompts, each (L_i, E). negative_embeds: (L, E), shared.
    audio: windowed features (N, F, window, bands, A), of several speakers (P, N, F, window, bands, A); None for silence
        as the null condition.
    reference_latents: (N, 16, R, H, W); None when no image is given, which leaves one empty slot.
    grey_latents: (16, >= T, H, W), the encoding of a grey video; models with ``"channels"`` injection only.
    face_mask: (N, T, H, W) in 0..1, where audio and silence act, in every branch; of several speakers (P, N, T, H, W).
        None acts everywhere. It may stay in the host's memory, which is where it is looked at.
    predict_faces: from this probability on a latent pixel is face, by the model's own mask predictor in the step
        before; None leaves the predictor out.
    """

    text_embeds: Sequence[Tensor]
    negative_embeds: Tensor
    audio: Tensor | None = None
    reference_latents: Tensor | None = None
    grey_latents: Tensor | None = None
    face_mask: Tensor | None = None
    predict_faces: float | None = None

    @property
    def num_speakers(self) -> int | None:
        """None for a single one, whose tensors have no axis of speakers."""
        return self.audio.shape[0] if self.audio is not None and self.audio.ndim == 6 else None

    @property
    def num_videos(self) -> int:
        return len(self.text_embeds)

    @property
    def num_slots(self) -> int:
        """Reference slots at the end of the latent video; one stays, empty, without an image."""
        return 1 if self.reference_latents is None else self.reference_latents.shape[2]

    @property
    def mode(self) -> str:
        return "T" + "I" * (self.reference_latents is not None) + "A" * (self.audio is not None)


class GuidedModel:
    """A DiT with its conditions: keys and values of each distinct text and audio are projected once.

    On a GPU, branches that differ in text and audio alone share their input, and those that differ in the image as well
    share the video's frames of it: what comes before the first difference is computed once. Nor is there a velocity of
    reference slots that the model never sees. CPU libraries round a smaller batch differently, so there a seed keeps
    its latents to the bit. ``branch_batch_size`` bounds how many branches share one forward; None runs all of them in
    one.
    """

    def __init__(
        self, model: HumoDiT, conditions: Conditions, noise_NCTHW: Tensor, *, branch_batch_size: int | None = None
    ) -> None:
        self.model = model
        self.conditions = conditions
        self.branch_batch_size = branch_batch_size
        self.shape = noise_NCTHW.shape
        self.device = noise_NCTHW.device
        self.shares_inputs = self.device.type == "cuda"
        # By rows and not by names: branches that differ in the image alone share their context.
        self._contexts: dict[tuple[tuple[int, ...], tuple[int | tuple[int, ...], ...]], Context] = {}
        self._channel_conditions: dict[bool, Tensor] = {}
        self._constants: dict[tuple[str, ...], dict[str, Any]] = {}
        self._predicted = None
        if conditions.predict_faces is not None:
            self._predicted = PredictedFaces(noise_NCTHW, conditions.num_slots, conditions.predict_faces)

    @cached_property
    def _projected(self) -> Context:
        """Rows: prompts of the N videos, the negative prompt; audios of the N videos, by speaker, and null audio."""
        conditions, frames = self.conditions, self.shape[2]
        texts = [*conditions.text_embeds, conditions.negative_embeds]
        config = self.model.config
        null = torch.zeros(1, frames, config.audio_window, config.audio_bands, config.audio_dim, device=self.device)
        audios = null
        if conditions.audio is not None:
            heard = append_reference_frames(conditions.audio.to(null), conditions.num_slots)
            audios = torch.cat([heard.flatten(0, -5), null])
        return self.model.project_context([text.to(self.device) for text in texts], audios)

    def prepare(self, steps: Iterable[Iterable[str]]) -> None:
        """Compute now what no step changes and the branches of ``steps`` ask for, which waits for the device."""
        for names in steps:
            for group in self._groups(names):
                self._constant_inputs(group)
        self.__dict__.pop("_projected", None)  # each group has its own rows; another would make it anew

    def velocity(self, x_NCTHW: Tensor, timestep: int, weights: Mapping[str, float]) -> Tensor:
        """The weighted sum of the branches' velocities, float32, shaped like ``x_NCTHW``."""
        total = torch.zeros_like(x_NCTHW, dtype=torch.float32)
        for name, branch in zip(weights, self.branches(x_NCTHW, timestep, tuple(weights)), strict=True):
            total.add_(branch, alpha=weights[name])
        return total

    def branches(self, x_NCTHW: Tensor, timestep: int, names: Sequence[str]) -> Tensor:
        """The velocities of the branches ``names`` along a first axis, float32 (len(names), N, C, T, H, W).

        They hold until the next call: a model may write each result over its last one, as engines do.
        """
        if self._predicted is not None:
            self._predicted.begin_step(names)
        first, *others = self._groups(names)
        velocities = self._forward(x_NCTHW, timestep, first)
        if others:
            velocities = self._completed(velocities, x_NCTHW, timestep, others)
        return velocities.unflatten(0, (len(names), -1))

    def _completed(self, first: Tensor, x_NCTHW: Tensor, timestep: int, others: Sequence[tuple[str, ...]]) -> Tensor:
        """``first`` and the velocities of the groups ``others``, each moved before the next forward writes over it."""
        videos = self.conditions.num_videos
        result = first.new_empty(len(first) + videos * sum(map(len, others)), *first.shape[1:])
        result[: len(first)] = first
        start = len(first)
        for group in others:
            end = start + videos * len(group)
            result[start:end] = self._forward(x_NCTHW, timestep, group)
            start = end
        return result

    def _groups(self, names: Iterable[str]) -> list[tuple[str, ...]]:
        """The branches that share a forward."""
        names = tuple(names)
        size = self.branch_batch_size or len(names)
        return [names[start : start + size] for start in range(0, len(names), size)]

    def _forward(self, x_NCTHW: Tensor, timestep: int, names: tuple[str, ...]) -> Tensor:
        inputs = torch.cat([self._latent_input(x_NCTHW, with_image) for with_image in self._inputs(names)])
        timesteps = torch.full((inputs.shape[0],), timestep, device=self.device)
        constants = self._constant_inputs(names)
        if self._predicted is not None:
            velocity = self._predicted.forward(self.model, inputs, timesteps, constants, names)
        else:
            velocity = self.model(inputs, timesteps, **constants)
        # Slots that were left out stay as they are: the model never sees the sampler's.
        left_out = self.shape[2] - velocity.shape[2]
        return F.pad(velocity, (0, 0, 0, 0, 0, left_out)) if left_out else velocity

    def _constant_inputs(self, names: tuple[str, ...]) -> dict[str, Any]:
        """What the model is given beside latents and timestep: the same at every step."""
        if names not in self._constants:
            distinct = self._inputs(names)
            inputs: dict[str, Any] = {"context": self._context(names), "condition": None, "rope": self._rope}
            video_frames = self.shape[2] - self.conditions.num_slots
            if self.model.config.image_injection == "channels":
                inputs["condition"] = torch.cat([self._channel_condition(with_image) for with_image in distinct])
            elif self.shares_inputs:
                inputs["frames_wanted"] = video_frames
                if len(distinct) == 2 and self.conditions.num_videos == 1:
                    inputs["frames_alike"] = video_frames  # they differ in the references
            if len(distinct) < len(names):
                videos = self.conditions.num_videos
                rows = [distinct.index("I" in name) * videos + video for name in names for video in range(videos)]
                inputs["rows"] = torch.tensor(rows, device=self.device)
            if self.conditions.face_mask is not None:
                mask = self.conditions.face_mask
                repeats = (1,) * (mask.ndim - 4) + (len(names), 1, 1, 1)
                inputs["face_mask"] = _moved(self.model.place_faces(mask.repeat(repeats)), self.device)
            self._constants[names] = inputs
        return self._constants[names]

    def _inputs(self, names: Iterable[str]) -> list[bool]:
        """The latent inputs of one forward, by whether they show the image: nothing else enters there."""
        shown = ["I" in name for name in names]
        return list(dict.fromkeys(shown)) if self.shares_inputs else shown

    @cached_property
    def _rope(self) -> tuple[Tensor, Tensor]:
        config = self.model.config
        frames, rows, columns = (size // patch for size, patch in zip(self.shape[2:], config.patch_size, strict=True))
        return rope_table(frames, rows, columns, config.head_dim, self.device)

    def _context(self, names: tuple[str, ...]) -> Context:
        texts, audios = self._context_rows(names)
        if (texts, audios) not in self._contexts:
            rows = (torch.tensor(texts, device=self.device), torch.tensor(audios, device=self.device))
            self._contexts[texts, audios] = self._projected.select(*rows)
        return self._contexts[texts, audios]

    def _context_rows(self, names: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[int | tuple[int, ...], ...]]:
        """Rows of ``_projected`` for the branches ``names``: of the texts, and of the audios, of several by speaker."""
        videos = range(self.conditions.num_videos)
        negative = len(videos)
        texts = tuple(row if "T" in name else negative for name in names for row in videos)
        if self.conditions.audio is None:
            return texts, (0,) * len(texts)
        speakers = self.conditions.num_speakers
        null_audio = (speakers or 1) * len(videos)

        def heard(speaker: int) -> tuple[int, ...]:
            first = speaker * len(videos)
            return tuple(first + row if "A" in name else null_audio for name in names for row in videos)

        return texts, heard(0) if speakers is None else tuple(map(heard, range(speakers)))

    def _latent_input(self, x_NCTHW: Tensor, with_image: bool) -> Tensor:
        """With ``"frames"`` injection the slots hold clean references or zeros; the sampler's own slots are hidden."""
        if self.model.config.image_injection != "frames":
            return x_NCTHW
        slots = self.conditions.num_slots
        references = self.conditions.reference_latents if with_image else torch.zeros_like(x_NCTHW[:, :, -slots:])
        return torch.cat([x_NCTHW[:, :, :-slots], references.to(x_NCTHW)], dim=2)

    def _channel_condition(self, with_image: bool) -> Tensor:
        if with_image not in self._channel_conditions:
            conditions, slots = self.conditions, self.conditions.num_slots
            assert conditions.grey_latents is not None, "models with channel injection need grey latents"
            grey, frames = conditions.grey_latents.to(self.device), self.shape[2] - slots
            if with_image:
                each = [assemble_condition(grey, frames, references) for references in conditions.reference_latents]
            else:
                each = [assemble_condition(grey, frames, num_references=slots)] * conditions.num_videos
            self._channel_conditions[with_image] = torch.stack(each)
        return self._channel_conditions[with_image]


def _moved(faces: Tensor | FaceTokens, device: torch.device) -> Tensor | FaceTokens:
    if isinstance(faces, Tensor):
        return faces.to(device)
    return tuple(TokenGroup(*(part.to(device) for part in group)) for group in faces)
