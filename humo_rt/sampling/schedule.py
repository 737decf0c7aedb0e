"""The samplers: diffusers' schedulers on HuMo's flow-matching schedule.

The release computes its sigmas in float64 from the float32 value of 0.999 downwards; diffusers reproduces its UniPC to
the bit when handed exactly these.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

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
    # diffusers leaves UniPC's on the host and copies a few of them at every step, which waits for the device.
    scheduler.sigmas = scheduler.sigmas.to(device)
    return scheduler


def advance(scheduler: Any, velocity: Tensor, t: Tensor, latents: Tensor) -> Tensor:
    """Latents after the step of ``scheduler`` at timestep ``t``. Waits for no device."""
    with _UncheckedSolve():
        return scheduler.step(velocity, t, latents, return_dict=False)[0]


def carry_change(scheduler: Any, index: int, change: Tensor) -> None:
    """Tell ``scheduler`` that the latents after step ``index``, not the last one, were changed by ``change``.

    UniPC corrects the outcome of a step in the next one, from the latents before: unless these are changed too, by what
    becomes ``change`` in that step, it brings the old outcome back.
    """
    if getattr(scheduler, "last_sample", None) is not None:
        scheduler.last_sample = scheduler.last_sample + change * (scheduler.sigmas[index] / scheduler.sigmas[index + 1])


def model_timesteps(scheduler: Any) -> list[int]:
    """The timesteps as the network sees them: truncated to integers, read back once before the loop."""
    return torch.as_tensor(scheduler.timesteps).cpu().to(torch.int64).tolist()


class _UncheckedSolve(TorchFunctionMode):
    """``torch.linalg.solve`` reads back whether the matrix is singular; UniPC's, of distinct noise levels, never is."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch.linalg.solve:
            return torch.linalg.solve_ex(*args, **(kwargs or {})).result
        return func(*args, **(kwargs or {}))
