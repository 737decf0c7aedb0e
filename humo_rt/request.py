"""One generation, as asked for: every argument of ``generate``, checked and completed before anything heavy starts.

Knows the rules and the presets. Loads no models; files are opened only to see whether they can be read.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from humo_rt import rules
from humo_rt.conditions.audio import num_audio_frames
from humo_rt.conditions.face import (
    DETECT,
    PREDICTOR,
    DetectFaces,
    FaceMaskSource,
    is_box,
    read_face_mask,
    read_face_masks,
    source_name,
)
from humo_rt.conditions.image import fitted_size
from humo_rt.config import FPS, SAMPLE_RATE, SPATIAL_STRIDE, TEMPORAL_STRIDE, ModelConfig
from humo_rt.media import Sound, check_output_path, read_image, read_sound
from humo_rt.media.audio import AudioSource
from humo_rt.media.image import ImageSource
from humo_rt.sampling.guidance import NUMBERS, GuidanceTable, guidance_numbers, guidance_table
from humo_rt.sampling.reuse import GuidanceReuse
from humo_rt.sampling.schedule import SAMPLERS

logger = logging.getLogger(__name__)

SCALES = ("guidance_scale", "audio_guidance_scale", "image_guidance_scale")
MAX_TIMESTEP = 1000.0
FACE_MASK_THRESHOLD = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class GenerationRequest:
    """The arguments of one ``generate``; ``GenerateOptions`` explains them."""

    prompt: str
    image: ImageSource | Sequence[ImageSource] | None = None
    audio: AudioSource | list[AudioSource] | None = None
    face_masks: FaceMaskSource | Sequence[FaceMaskSource] | None = None
    face_mask_threshold: float | None = None
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    num_inference_steps: int | None = None
    seed: int | None = None
    generator: torch.Generator | None = None
    guidance: str | GuidanceTable | Sequence[Mapping[str, Any]] | None = None
    guidance_scale: float | None = None
    audio_guidance_scale: float | None = None
    image_guidance_scale: float | None = None
    guidance_switch_timestep: float | None = None
    guidance_reuse: int | str | Mapping[str, Any] | GuidanceReuse | None = None
    flow_shift: float | None = None
    sampler: str | None = None
    branch_batch_size: int | None = None
    callback_on_step_end: Callable[[Any, int, int, dict[str, Tensor]], dict[str, Tensor] | None] | None = None
    output: str | os.PathLike[str] | None = None
    progress: bool | Callable[[int, int], None] = False
    trace: bool = False

    @property
    def images(self) -> tuple[ImageSource, ...]:
        """The reference images, none, one or several."""
        if self.image is None:
            return ()
        return tuple(self.image) if isinstance(self.image, list | tuple) else (self.image,)

    @property
    def audios(self) -> tuple[AudioSource, ...]:
        """The sounds, one for each speaker; none without audio."""
        if self.audio is None:
            return ()
        return tuple(self.audio) if isinstance(self.audio, list) else (self.audio,)

    @property
    def mode(self) -> str:
        """T, TI, TA or TIA: the conditions that are given."""
        return "T" + "I" * bool(self.images) + "A" * bool(self.audios)

    @property
    def predicts_faces(self) -> bool:
        """Whether the model's own mask predictor says where the audio acts."""
        return isinstance(self.face_masks, str) and self.face_masks == PREDICTOR

    @property
    def latent_size(self) -> tuple[int, int, int]:
        """Latent frames of the video, rows and columns, of a request that is complete; reference slots come on top."""
        frames = (self.num_frames - 1) // TEMPORAL_STRIDE + 1
        return frames, self.height // SPATIAL_STRIDE, self.width // SPATIAL_STRIDE

    def validated(self, config: ModelConfig) -> GenerationRequest:
        """The request with every default of ``config`` filled in. ``ValueError`` for what cannot work."""
        if not isinstance(self.prompt, str) or not self.prompt.strip():
            raise ValueError(f"prompt {self.prompt!r} is empty: describe the video in a sentence")
        if not isinstance(self.negative_prompt, str | None):
            raise ValueError(f"negative_prompt {self.negative_prompt!r} is not a text: give one, or '' for none")
        if self.callback_on_step_end is not None and not callable(self.callback_on_step_end):
            raise ValueError(f"callback_on_step_end {self.callback_on_step_end!r} is not a function: give one")
        if not (isinstance(self.progress, bool | None) or callable(self.progress)):
            raise ValueError(f"progress {self.progress!r} is neither True nor False nor a function: give one of them")
        image_sizes = [read_image(image).size for image in self.images]
        sounds = [read_sound(audio) for audio in self.audios]
        _require_heard(sounds)
        self._require_masks_that_fit(config)
        complete = replace(
            self,
            negative_prompt=config.negative_prompt if self.negative_prompt is None else self.negative_prompt,
            height=rules.size("height", _first(self.height, config.height)),
            width=rules.size("width", _first(self.width, config.width)),
            num_frames=_frames(self.num_frames, max(sounds, key=lambda sound: sound.seconds, default=None), config),
            face_mask_threshold=self._resolved_threshold(),
            num_inference_steps=rules.whole(
                "num_inference_steps", _first(self.num_inference_steps, config.num_inference_steps), 1, rules.MAX_STEPS
            ),
            seed=_seed(self.seed, self.generator),
            flow_shift=rules.real("flow_shift", _first(self.flow_shift, config.flow_shift), 0.0, above=True),
            sampler=_sampler(_first(self.sampler, "unipc")),
            branch_batch_size=_optional_whole("branch_batch_size", self.branch_batch_size),
            output=None if self.output is None else check_output_path(self.output),
            **self._resolved_guidance(config),
        )
        for size in image_sizes:
            fitted_size(size, complete.width, complete.height)
        _ = complete.face_weights  # raises for masks that cannot be used
        return complete

    @cached_property
    def face_weights(self) -> Tensor | None:
        """Latent weights (T, H / 8, W / 8) of the face mask of a request that is complete, of P speakers (P, T, ...).

        None where no mask is given before the first step.
        """
        if self.face_masks is None or self.predicts_faces:
            return None
        size = {"num_frames": self.num_frames, "height": self.height, "width": self.width}
        if not isinstance(self.audio, list):
            return read_face_mask(self.face_masks, **size)
        weights_PTHW = read_face_masks(self.face_masks, **size)
        return weights_PTHW if len(weights_PTHW) > 1 else weights_PTHW[0]

    def guidance_options(self) -> dict[str, float]:
        """The scales and the switch, as ``guidance_table`` takes them; those that are None are left out."""
        return {name: getattr(self, name) for name in NUMBERS if getattr(self, name) is not None}

    def settings(self) -> dict[str, Any]:
        """What decides the video, JSON-ready, under the names of the arguments. Arrays are described, not stored."""
        left_out = ("callback_on_step_end", "generator", "output", "progress", "trace")
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in left_out}
        values["image"] = [_describe(image) for image in self.images]
        audios = [_describe(audio) for audio in self.audios]
        values["audio"] = audios if isinstance(self.audio, list) else next(iter(audios), None)
        values["face_masks"] = _describe_mask(self.face_masks)
        if isinstance(self.guidance, GuidanceTable):
            values["guidance"] = self.guidance.to_rows()
        if isinstance(self.guidance_reuse, GuidanceReuse):
            values["guidance_reuse"] = self.guidance_reuse.to_json()
        return values

    def _require_masks_that_fit(self, config: ModelConfig) -> None:
        """``ValueError`` unless every speaker has a mask, as far as that can be said without reading any."""
        speakers, masks = len(self.audios), self.face_masks
        if masks is not None and not speakers:
            raise ValueError("face_masks are given without audio: give the speech that the face speaks, or no mask")
        if self.predicts_faces and not config.dit.mask_predictor:
            raise ValueError(
                f"face_masks {PREDICTOR!r} needs a mask predictor, which the weights of {config.name} do not carry: "
                "give boxes, a mask or DetectFaces"
            )
        if self.predicts_faces and speakers > 1:
            raise ValueError(f"face_masks {PREDICTOR!r} cannot tell {speakers} speakers apart: give each a mask")
        if not isinstance(self.audio, list) or self.predicts_faces or (masks is None and speakers < 2):
            return
        listed = isinstance(masks, list | tuple) and not is_box(masks)
        given = len(masks) if listed else int(masks is not None)
        if given != speakers or not listed:
            have = "1 speaker has" if speakers == 1 else f"{speakers} speakers have"
            raise ValueError(
                f"audio is a list and {have} {given} face mask{'s' * (given != 1)}: give a list with one mask for each "
                "audio"
            )
        if any(isinstance(mask, str) and mask == PREDICTOR for mask in masks):
            raise ValueError(f"face_masks {PREDICTOR!r} is not the mask of one among speakers: give it by itself")
        missing = next((speaker for speaker, mask in enumerate(masks) if mask is None), None)
        if missing is not None:
            raise ValueError(f"speaker {missing} has no face mask: give one for each audio")

    def _resolved_threshold(self) -> float | None:
        threshold = self.face_mask_threshold
        if not self.predicts_faces:
            if threshold is not None:
                raise ValueError(f"face_mask_threshold {threshold} is for face_masks {PREDICTOR!r}: leave it out")
            return None
        number = rules.real("face_mask_threshold", _first(threshold, FACE_MASK_THRESHOLD), 0.0, 1.0, above=True)
        if number == 1:
            raise ValueError("face_mask_threshold 1 leaves no face: use a number below 1")
        return number

    def _resolved_guidance(self, config: ModelConfig) -> dict[str, Any]:
        """The guidance and its numbers, filled in where the chosen guidance has a use for them."""
        given = {
            name: rules.real(name, value, 0.0, math.inf if name in SCALES else MAX_TIMESTEP)
            for name, value in self.guidance_options().items()
        }
        guidance = config.guidance if self.guidance is None else self.guidance
        if not isinstance(guidance, str | GuidanceTable):
            guidance = GuidanceTable.from_rows(guidance)
        table = guidance_table(config, self.mode, guidance, **given)
        numbers = guidance_numbers(config, guidance, given) if isinstance(guidance, str) else given
        reuse = None if self.guidance_reuse is None else GuidanceReuse.parse(self.guidance_reuse).checked(table)
        return {"guidance": guidance, "guidance_reuse": reuse, **numbers}


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _frames(given: int | None, sound: Sound | None, config: ModelConfig) -> int:
    """As asked, else as long as the sound, else the preset's."""
    if given is not None:
        return rules.frame_count("num_frames", given)
    if sound is None:
        return config.num_frames
    wanted = max(rules.fitting_frames(_heard_frames(sound)), rules.MIN_SPOKEN_FRAMES)
    if wanted > config.num_frames:
        logger.warning(
            "the audio lasts %.2f s, so the video has %d frames; beyond %d %s degrades: set num_frames for fewer",
            sound.seconds,
            wanted,
            config.num_frames,
            config.name,
        )
    return wanted


def _heard_frames(sound: Sound) -> int:
    return num_audio_frames(math.ceil(sound.seconds * SAMPLE_RATE - 1e-6))


def _require_heard(sounds: Sequence[Sound]) -> None:
    """``ValueError`` for a sound of less than one frame."""
    for speaker, sound in enumerate(sounds):
        if _heard_frames(sound) < 1:
            whose = f" of speaker {speaker}" if len(sounds) > 1 else ""
            raise ValueError(
                f"audio{whose} of {sound.seconds:.4f} s is shorter than one frame: give at least {1 / FPS:g} s"
            )


def _seed(seed: int | None, generator: torch.Generator | None) -> int:
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(f"generator {generator!r} is not a torch.Generator: give one, or a seed")
    if generator is not None:
        if seed is not None and seed != generator.initial_seed():
            raise ValueError(f"seed {seed} and a generator are given: give only one of them")
        fresh = torch.Generator(generator.device).manual_seed(generator.initial_seed())
        if not torch.equal(fresh.get_state(), generator.get_state()):
            logger.warning("the generator has been used before: its seed alone does not make this video again")
        return generator.initial_seed()
    return secrets.randbelow(2**31) if seed is None else rules.whole("seed", seed, 0, rules.MAX_SEED)


def _sampler(name: str) -> str:
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}: choose one of {', '.join(SAMPLERS)}")
    return name


def _optional_whole(name: str, value: int | None) -> int | None:
    return None if value is None else rules.whole(name, value, 1)


def _describe_mask(mask: Any) -> Any:
    """Of one mask, or of what makes it up: boxes stay what they are, in numbers of Python's own."""
    if isinstance(mask, list | tuple):
        return type(mask)(map(_describe_mask, mask))
    if mask is None or isinstance(mask, Real):
        return mask.item() if isinstance(mask, np.generic) else mask
    return f"{DETECT}:{source_name(mask.source)}" if isinstance(mask, DetectFaces) else _describe(mask)


def _describe(source: Any) -> str:
    if isinstance(source, Sound):
        return f"<sound, {source.seconds:.2f} s at {source.sample_rate} Hz>"
    if isinstance(source, tuple):
        return f"<samples {np.shape(source[0])} at {source[1]} Hz>"
    shape = getattr(source, "shape", ())
    if len(shape) == 3 and shape[-1] not in (1, 3, 4):
        return f"<{shape[0]} masks of {shape[2]}x{shape[1]}>"
    return source_name(source)
