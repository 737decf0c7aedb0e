"""Which library computes a model's linear layers on this machine, and why the other one cannot.

Probes on demand, once for each device and dtype: the package is imported and computes something small on the card,
which also compiles its kernels. Knows nothing of how the library is called.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache

import torch

from humo_rt.model.dit import HumoDiT
from humo_rt.runtime.matmul_kernels import FEWEST_INPUTS, HALF, MOST_INPUTS, QUACK, TORCH

logger = logging.getLogger(__name__)

AUTO = "auto"
# Fastest first, by what was measured on an H200 in bfloat16 of what quack is given.
BACKENDS = (QUACK, TORCH)
CHOICES = (AUTO, *BACKENDS)
INSTALL = "pip install 'quack-kernels[cu13]>=0.6.5,<0.7' (without [cu13] for a torch built with CUDA 12)"
_ABSENT = f"is not installed: {INSTALL}"
_HOPPER = 9


@dataclass(frozen=True, kw_only=True)
class MatmulSurvey:
    """What ``humo-rt doctor`` shows. ``unavailable``: for every backend why it cannot run, or None when it can."""

    chosen: str
    unavailable: dict[str, str | None]


def survey(device: torch.device, dtype: torch.dtype, width: int) -> MatmulSurvey:
    """Probe every backend; ``chosen`` is what "auto" takes."""
    try:
        reason = unavailable(device, dtype, width)
    except torch.OutOfMemoryError:
        reason = "could not be tried: too little GPU memory is free"
    return MatmulSurvey(chosen=TORCH if reason else QUACK, unavailable={QUACK: reason, TORCH: None})


def choose(requested: str, device: torch.device, dtype: torch.dtype, width: int) -> str:
    """The backend to run: ``requested``, or for "auto" the fastest that can. ``width``: of the model.

    ``ValueError`` for an unknown name, and for a device, dtype or width that ``requested`` refuses; ``RuntimeError``
    for a package that is missing or does not work on this card.
    """
    if requested not in CHOICES:
        raise ValueError(f"unknown matmul_backend {requested!r}: choose one of {', '.join(CHOICES)}")
    if requested == TORCH:
        return TORCH
    unsuited = _unsuited(device, dtype, width)
    if requested == AUTO:
        return QUACK if unsuited is None and _works(device, dtype) else TORCH
    if unsuited is not None:
        raise ValueError(f"matmul_backend {requested!r} {unsuited}: use {AUTO!r}")
    missing = _missing(device, dtype)
    if missing is not None:
        raise RuntimeError(f"matmul_backend {requested!r} {missing}")
    return requested


def use_matmul(dit: HumoDiT, backend: str) -> None:
    """Let ``backend`` compute the linear layers of the fused blocks of ``dit``, in place."""
    for block in dit.blocks:
        block.matmul_backend = backend


def unavailable(device: torch.device, dtype: torch.dtype, width: int) -> str | None:
    """Why quack cannot run, to be read after its name; or None when it can."""
    return _unsuited(device, dtype, width) or _missing(device, dtype)


def _unsuited(device: torch.device, dtype: torch.dtype, width: int) -> str | None:
    if device.type != "cuda":
        return f"needs an NVIDIA GPU, not {device}"
    major, minor = torch.cuda.get_device_capability(device)
    if major != _HOPPER:
        return f"is set up for Hopper (compute capability {_HOPPER}.x), this is {major}.{minor}"
    if dtype not in HALF:
        return f"takes bfloat16 and float16, not {str(dtype).removeprefix('torch.')}"
    if not FEWEST_INPUTS <= width <= MOST_INPUTS:
        return f"does not pay for a model of width {width}, only from {FEWEST_INPUTS} to {MOST_INPUTS}"
    return None


def _works(device: torch.device, dtype: torch.dtype) -> bool:
    reason = _missing(device, dtype)
    if reason is not None and reason != _ABSENT:
        _say_unused(reason)
    return reason is None


@cache
def _missing(device: torch.device, dtype: torch.dtype) -> str | None:
    """What this machine lacks for quack."""
    try:
        _try(device, dtype)
    except torch.OutOfMemoryError:
        raise  # says nothing of the package, so it is not remembered
    except Exception as error:  # noqa: BLE001  the package raises kinds of its own; every one is a reason
        if isinstance(error, ModuleNotFoundError) and error.name == QUACK:
            return _ABSENT
        said = " ".join((str(error) or type(error).__name__).split())[:300]
        return (
            f"does not work on {torch.cuda.get_device_name(device)}: {said}; its version may be another one: {INSTALL}"
        )
    return None


@cache
def _say_unused(reason: str) -> None:
    logger.warning("%s is installed but not used: it %s", QUACK, reason)


def _try(device: torch.device, dtype: torch.dtype) -> None:
    """Each kernel once; raises what the library raises."""
    from humo_rt.runtime import quack_products

    generator = torch.Generator(device).manual_seed(0)  # its own, so that probing changes nobody's noise
    x = torch.randn(2, 64, 128, generator=generator, device=device, dtype=dtype)
    weight, bias = x.new_ones(128, 128), x.new_ones(128)
    for gelu in (False, True):
        quack_products.linear(x, weight, bias, gelu)
    torch.cuda.synchronize(device)
