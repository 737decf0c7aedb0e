"""The samplers: diffusers' schedulers on HuMo's flow-matching schedule.

The release computes its sigmas in float64 from the float32 value of 0.999 downwards; diffusers reproduces its UniPC to
the bit when handed exactly these.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

NUM_TRAIN_TIMESTEPS = 1000
SAMPLERS = ("unipc", "euler")


def unshifted_sigmas(num_inference_steps: int) -> np.ndarray:
    """``num_inference_steps`` float64 noise levels before the shift, the final zero left out."""
    highest = np.float64(np.float32(1.0 - 1.0 / NUM_TRAIN_TIMESTEPS))
    return np.linspace(highest, 0.0, num_inference_steps + 1)[:-1]


def make_scheduler(
    num_inference_steps: int, flow_shift: float, *, sampler: Literal["unipc", "euler"] = "unipc", device: Any = "cpu"
) -> Any:
    """A diffusers scheduler ready to step. ``ValueError`` for an unknown sampler."""
    from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    sigmas = unshifted_sigmas(num_inference_steps)
    if sampler == "unipc":
        scheduler = UniPCMultistepScheduler(
            num_train_timesteps=NUM_TRAIN_TIMESTEPS,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=flow_shift,
        )
    elif sampler == "euler":
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TRAIN_TIMESTEPS, shift=flow_shift)
    else:
        raise ValueError(f"unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    scheduler.set_timesteps(sigmas=sigmas, device=device)
    return scheduler


def model_timesteps(scheduler: Any) -> list[int]:
    """The timesteps as the network sees them: truncated to integers, read back once before the loop."""
    return torch.as_tensor(scheduler.timesteps).cpu().to(torch.int64).tolist()
