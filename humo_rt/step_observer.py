"""What a generation does between steps for its caller: the callback, whose latents are checked, and progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor

from humo_rt.progress import step_bar
from humo_rt.request import GenerationRequest


@contextmanager
def step_observer(request: GenerationRequest, pipeline: Any) -> Iterator[Callable[[int, int, Tensor], Tensor] | None]:
    """What the denoise loop calls after each step to run the user's callback and report progress; None if nothing.

    The callback is given ``pipeline``. A KeyboardInterrupt raised in either ends the generation.
    """
    callback = request.callback_on_step_end
    if not request.progress and callback is None:
        yield None
        return
    with step_bar() if request.progress is True else nullcontext(request.progress or None) as report:

        def on_step(index: int, timestep: int, latents: Tensor) -> Tensor:
            if callback is not None:
                latents = _returned_latents(callback(pipeline, index, timestep, {"latents": latents}), latents)
            if report is not None:
                report(index + 1, request.num_inference_steps)
            return latents

        yield on_step


def _returned_latents(returned: Any, latents: Tensor) -> Tensor:
    """What a step's callback wants to go on with, on the device and in the float32 of the ``latents`` it was given."""
    if returned is None:
        return latents
    if not isinstance(returned, Mapping) or not set(returned) <= {"latents"}:
        given = ", ".join(map(repr, returned)) if isinstance(returned, Mapping) else type(returned).__name__
        raise ValueError(f'callback_on_step_end returned {given}: return {{"latents": tensor}}, or None for no change')
    changed = returned.get("latents", latents)
    if not isinstance(changed, Tensor) or changed.shape != latents.shape:
        given = list(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
        raise ValueError(f"callback_on_step_end returned latents of {given}: keep the shape {list(latents.shape)}")
    return changed.to(latents)
