"""What a warm-up runs. Knows inputs, guidance and the sampler; nothing of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from humo_rt import rules
from humo_rt.config import FPS, SAMPLE_RATE
from humo_rt.request import GenerationRequest
from humo_rt.sampling.guidance import MODES, NUMBERS, GuidanceRow, GuidanceTable
from humo_rt.sampling.schedule import advance, make_scheduler, model_timesteps

# The order of UniPC has risen, and its corrector followed, after three.
_SAMPLER_STEPS = 3


def noise_inputs(mode: str, num_frames: int) -> dict[str, Any]:
    """Arguments of ``generate`` for ``mode``: an image and a sound of noise, as long as the video."""
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}: choose one of {', '.join(MODES)}")
    inputs: dict[str, Any] = {"num_frames": rules.frame_count("num_frames", num_frames)}
    noise = np.random.default_rng(0)
    if "I" in mode:
        inputs["image"] = noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    if "A" in mode:
        sound = noise.normal(0, 0.1, num_frames * SAMPLE_RATE // FPS)
        inputs["audio"] = (sound.astype(np.float32), SAMPLE_RATE)
    return inputs


def one_step_each(request: GenerationRequest, sets: Sequence[tuple[str, ...]]) -> GenerationRequest:
    """``request`` with one step for each set of branches, which computes these and no others."""
    # Without a shift the timesteps are evenly spaced, so that a row of the table can be for one of them alone.
    short = replace(request, num_inference_steps=len(sets), flow_shift=1.0, guidance_reuse=None)
    timesteps = model_timesteps(make_scheduler(len(sets), short.flow_shift, sampler=request.sampler))
    bounds = [*(timestep - 0.5 for timestep in timesteps[:-1]), None]
    rows = [
        GuidanceRow({name: 1 / len(names) for name in names}, bound) for names, bound in zip(sets, bounds, strict=True)
    ]
    return replace(short, guidance=GuidanceTable(tuple(rows)), **dict.fromkeys(NUMBERS))


def run_sampler(request: GenerationRequest, device: torch.device) -> None:
    """Every part of the sampler once, on a few numbers: one step of a generation leaves the higher order out."""
    scheduler = make_scheduler(_SAMPLER_STEPS, request.flow_shift, sampler=request.sampler, device=device)
    scheduler.set_begin_index(0)
    latents = torch.ones(1, 1, device=device)
    for t in scheduler.timesteps:
        latents = advance(scheduler, latents, t, latents)
