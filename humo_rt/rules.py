"""The rules a request's numbers keep: each check returns the value, or raises a ``ValueError`` with rule and fix."""

from __future__ import annotations

import math
import operator
from typing import Any

from humo_rt.config import TEMPORAL_STRIDE

SIZE_STRIDE = 16
MAX_STEPS = 1000
MAX_SEED = 2**64 - 1
# Fewer than one latent frame after the first show no movement.
MIN_SPOKEN_FRAMES = TEMPORAL_STRIDE + 1


def whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """A whole number in low..high."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} {value!r} is not a whole number: use one like {max(low, 1)}") from None
    if isinstance(value, bool):
        raise ValueError(f"{name} {value} is not a number: use one like {max(low, 1)}")
    if number < low:
        raise ValueError(f"{name} {number} is below {low}: use {low} or more")
    if high is not None and number > high:
        raise ValueError(f"{name} {number} is above {high}: use {high} or less")
    return number


def size(name: str, value: Any) -> int:
    """A height or width in pixels: a multiple of 16."""
    number = whole(name, value, SIZE_STRIDE)
    below = number - number % SIZE_STRIDE
    if number != below:
        raise ValueError(f"{name} {number} is not a multiple of {SIZE_STRIDE}: use {below} or {below + SIZE_STRIDE}")
    return number


def frame_count(name: str, value: Any) -> int:
    """A number of video frames, 4n + 1: the first frame has a latent frame of its own, then four share one."""
    number = whole(name, value, 1)
    below = fitting_frames(number)
    if number != below:
        raise ValueError(f"{name} {number} is not {TEMPORAL_STRIDE}n+1: use {below} or {below + TEMPORAL_STRIDE}")
    return number


def fitting_frames(frames: int) -> int:
    """The largest 4n + 1 that is at most ``frames`` >= 1."""
    return TEMPORAL_STRIDE * ((frames - 1) // TEMPORAL_STRIDE) + 1


def as_float(name: str, value: Any, *, like: float = 1.0) -> float:
    """Any number, also one of NumPy or torch, as Python's own."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"{name} {value!r} is not a number: use one like {like:g}") from None


def real(name: str, value: Any, low: float, high: float = math.inf, *, above: bool = False) -> float:
    """A finite number in low..high, ``low`` itself excluded if ``above``."""
    number = as_float(name, value, like=max(low, 1.0))
    if not math.isfinite(number):
        raise ValueError(f"{name} {number} is not finite: use a number like {max(low, 1.0):g}")
    if number < low or (above and number == low):
        raise ValueError(f"{name} {number:g} is {'not above' if above else 'below'} {low:g}: use a larger number")
    if number > high:
        raise ValueError(f"{name} {number:g} is above {high:g}: use a smaller number")
    return number
