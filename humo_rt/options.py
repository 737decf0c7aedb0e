"""The arguments of ``generate`` and what each of them means. ``request`` checks and completes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from humo_rt.conditions.face import FaceMaskSource
from humo_rt.media.audio import AudioSource
from humo_rt.media.image import ImageSource
from humo_rt.sampling.guidance import GuidanceTable
from humo_rt.sampling.reuse import GuidanceReuse


class GuidanceOptions(TypedDict, total=False):
    """Of ``GenerateOptions`` those that decide which guidance branches run at which step."""

    num_inference_steps: int | None
    guidance: str | GuidanceTable | Sequence[Mapping[str, Any]] | None
    guidance_scale: float | None
    audio_guidance_scale: float | None
    image_guidance_scale: float | None
    guidance_switch_timestep: float | None
    guidance_reuse: int | str | Mapping[str, Any] | GuidanceReuse | None
    flow_shift: float | None
    sampler: str | None
    branch_batch_size: int | None


class GenerateOptions(GuidanceOptions, total=False):
    """The keyword arguments of ``generate`` beside the prompt; what is left out or None comes from the preset.

    image: reference images of the person, clothes or things: one or several paths, Pillow images or (H, W, 3) arrays.
    audio: the speech: a path to any file ffmpeg reads, or (samples, rate in Hz). Or a list of these, one for each
        speaker: what their audio adds is summed, and the video carries the mix.
    face_masks: where the audio acts: a box (left, top, right, bottom) in pixels or several, a mask image, white on the
        face, or a mask video, array or tensor (F, H, W) with one mask for each frame; or ``DetectFaces`` of a picture
        or an earlier video, or "detect:FILE". With a list of audios a list, one for each speaker. Everywhere when left
        out. "predictor" changes the result: each step takes the mask that the model's own mask predictor gave in the
        step before, from the branch that sees most, for all branches.
    face_mask_threshold: of "predictor": the probability, above 0 and below 1, from which on a pixel is face; 0.5.
    negative_prompt: what the video should not look like.
    height, width: pixels, multiples of 16.
    num_frames: 4n + 1 frames at 25 per second; without it as long as the audio.
    num_inference_steps: denoising steps, 1..1000.
    seed: whole number >= 0; drawn at random and reported when left out. generator: a torch.Generator instead of it.
    guidance: a name ("humo-1.7b", "humo-17b", "paper", "none"), a ``GuidanceTable`` or the rows of one.
    guidance_scale, audio_guidance_scale, image_guidance_scale: weight of text, audio and images, >= 0.
    guidance_switch_timestep: where "humo-17b" changes its formula, 0..1000, 1000 is noise.
    guidance_reuse: lossy: compute guidance branches at every n-th step only, all of them but the richest or each its
        own, as in {"TA": 2, "0": 4}; or a ``GuidanceReuse``.
    flow_shift: > 0; larger values spend more steps on the coarse structure.
    sampler: "unipc" (the default) or "euler".
    branch_batch_size: guidance branches computed at once; all of them when left out. Fewer need less memory.
    callback_on_step_end: called as (pipeline, step, timestep, {"latents": tensor}) after every step; latents of the
        same shape in the dict it returns, if any, replace the current ones, in float32; "unipc" corrects them in the
        next step like those it makes itself.
    output: the MP4 to write. progress: True for a bar, or a function called as (steps done, steps in all).
    trace: True to measure stages, steps and memory, see ``runtime.trace``; the host then waits for each stage.
    """

    image: ImageSource | Sequence[ImageSource] | None
    audio: AudioSource | list[AudioSource] | None
    face_masks: FaceMaskSource | Sequence[FaceMaskSource] | None
    face_mask_threshold: float | None
    negative_prompt: str | None
    height: int | None
    width: int | None
    num_frames: int | None
    seed: int | None
    generator: torch.Generator | None
    callback_on_step_end: Callable[[Any, int, int, dict[str, Tensor]], dict[str, Tensor] | None] | None
    output: str | os.PathLike[str] | None
    progress: bool | Callable[[int, int], None]
    trace: bool
