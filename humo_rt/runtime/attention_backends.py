"""Which libraries can compute self-attention on this machine, why the others cannot, and which one runs.

Probes on demand, once for each combination of device, dtype and head_dim: the package is imported and computes
something small on the card. Knows nothing of how the libraries are called.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from humo_rt.model.dit import HumoDiT
from humo_rt.runtime import flash_attention_4, float8_attention
from humo_rt.runtime.attention_kernels import (
    FLASH_ATTENTION_4,
    PACKAGES,
    SDPA,
    package_function,
    self_attention,
    self_attention_of_alike,
)

logger = logging.getLogger(__name__)

AUTO = "auto"
# Fastest first, by what was measured on a cool H200 (bfloat16, 12 heads, 40,560 tokens, head_dim 128): flash-attn-4
# 756, cuDNN 641, SDPA's flash kernel 367 TFLOP/s. flash-attn-3 and 2 were not measured there: 3 is published with
# about cuDNN's speed, 2 is where SDPA's flash kernel comes from, so each follows what needs no package.
BACKENDS = ("flash-attn-4", "cudnn", "flash-attn-3", "sdpa-flash", "flash-attn-2", SDPA)
# Faster still (885 TFLOP/s there) and lossy: taken when named, and by "auto" where the rest is lossy too.
CUDNN_FP8 = "cudnn-fp8"
NAMED = (*BACKENDS, CUDNN_FP8)
CHOICES = (AUTO, *NAMED)

_HALF = (torch.bfloat16, torch.float16)
_INSTALL = {name: package.install for name, package in PACKAGES.items()} | {CUDNN_FP8: float8_attention.INSTALL}
_DTYPES = dict.fromkeys(NAMED, _HALF) | {SDPA: (*_HALF, torch.float32, torch.float64)}
_WIDEST_HEAD = 256  # of the fused kernels
_HEAD_MULTIPLE = dict.fromkeys(BACKENDS, 8) | {CUDNN_FP8: 16}  # rows of 16 bytes
_FUSED = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


@dataclass(frozen=True, kw_only=True)
class AttentionSurvey:
    """What ``humo-rt doctor`` shows. ``unavailable``: for every backend why it cannot run, or None when it can."""

    device: str
    dtype: str
    head_dim: int
    chosen: str | None
    unavailable: dict[str, str | None]


def survey(device: torch.device, dtype: torch.dtype, head_dim: int) -> AttentionSurvey:
    """Probe every backend; ``chosen`` is what "auto" takes, None when there is nothing to take."""
    reasons = {}
    for name in NAMED:
        try:
            reasons[name] = unavailable(name, device, dtype, head_dim)
        except torch.OutOfMemoryError:
            reasons[name] = "could not be tried: too little GPU memory is free"
    chosen = next((name for name in BACKENDS if reasons[name] is None), None)
    named = {"device": str(device), "dtype": _name(dtype), "head_dim": head_dim}
    return AttentionSurvey(chosen=chosen, unavailable=reasons, **named)


def choose(requested: str, device: torch.device, dtype: torch.dtype, head_dim: int, *, lossy: bool = False) -> str:
    """The backend to run: ``requested``, or for "auto" the fastest that can; with ``lossy`` one in float8 may be it.

    ``ValueError`` for an unknown name, and for a device, dtype or head_dim that ``requested`` (or, for "auto", every
    backend) refuses; ``RuntimeError`` for a package that is missing or does not work on this card.
    """
    if requested not in CHOICES:
        raise ValueError(f"unknown attention_backend {requested!r}: choose one of {', '.join(CHOICES)}")
    if requested == AUTO:
        return _fastest((CUDNN_FP8, *BACKENDS) if lossy else BACKENDS, device, dtype, head_dim)
    unsuited = _unsuited(requested, device, dtype, head_dim)
    if unsuited is not None:
        raise ValueError(f"attention_backend {requested!r} {unsuited}: use {AUTO!r}")
    missing = _missing(requested, device, dtype, head_dim)
    if missing is not None:
        raise RuntimeError(f"attention_backend {requested!r} {missing}")
    return requested


def use_attention(dit: HumoDiT, backend: str) -> None:
    """Let ``backend`` compute the self-attention of ``dit``, in place. ``backend`` is what ``choose`` returned."""
    alone = {SDPA: F.scaled_dot_product_attention, CUDNN_FP8: float8_attention.float8_attention}
    function = alone.get(backend) or partial(self_attention, backend=backend)
    spares = backend == FLASH_ATTENTION_4 and flash_attention_4.gives_lse()
    alike = self_attention_of_alike if spares else None
    for block in dit.blocks:
        block.self_attn.attention_function = function
        block.self_attn.alike_function = alike


def unavailable(backend: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why ``backend`` cannot run, to be read after its name; or None when it can."""
    return _unsuited(backend, device, dtype, head_dim) or _missing(backend, device, dtype, head_dim)


def _fastest(backends: tuple[str, ...], device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    reasons = []
    for backend in backends:
        reason = unavailable(backend, device, dtype, head_dim)
        if reason is None:
            return backend
        if backend in _INSTALL and not _unsuited(backend, device, dtype, head_dim) and not _absent(backend):
            _say_unused(backend, reason)
        reasons.append(f"{backend} {reason}")
    raise ValueError(
        f"no attention backend takes head_dim {head_dim} in {_name(dtype)} on {device}, change one of them: "
        + "; ".join(reasons)
    )


def _unsuited(backend: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """What of the arguments ``backend`` takes nowhere."""
    if backend != SDPA and device.type != "cuda":
        return f"needs an NVIDIA GPU, not {device}"
    if dtype not in _DTYPES[backend]:
        return f"takes {', '.join(map(_name, _DTYPES[backend]))}, not {_name(dtype)}"
    multiple = _HEAD_MULTIPLE[backend]
    if backend != SDPA and (head_dim % multiple or not 0 < head_dim <= _WIDEST_HEAD):
        return f"takes a head_dim that is a multiple of {multiple} up to {_WIDEST_HEAD}, not {head_dim}"
    return None


@cache
def _missing(backend: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """What this machine lacks for ``backend``."""
    if backend == SDPA and device.type != "cuda":
        return None
    if backend in _INSTALL and _absent(backend):
        return f"is not installed: {_INSTALL[backend]}"
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            _try(backend, device, dtype, head_dim)
        except torch.OutOfMemoryError:
            raise  # says nothing of the backend, so it is not remembered
        except Exception as error:  # noqa: BLE001  each package raises kinds of its own; every one is a reason
            return f"does not work on {torch.cuda.get_device_name(device)}: {_described(error, heard)}"
    return None


def _try(backend: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
    """Compute something small; raises what the library raises."""
    generator = torch.Generator(device).manual_seed(0)  # its own, so that probing changes nobody's noise
    qkv = torch.randn(3, 1, 2, 128, head_dim, generator=generator, device=device, dtype=dtype)
    if backend == SDPA:
        # Without a fused kernel SDPA would store every score, which no video's length allows.
        with sdpa_kernel(_FUSED):
            F.scaled_dot_product_attention(*qkv)
    elif backend == CUDNN_FP8:
        float8_attention.float8_attention(*qkv)
    else:
        self_attention(*qkv, backend=backend)
    torch.cuda.synchronize(device)


def _absent(backend: str) -> bool:
    """Whether the package is not there. One that is there and cannot be loaded is found out by trying it."""
    module = float8_attention.MODULE if backend == CUDNN_FP8 else PACKAGES[backend].module
    try:
        float8_attention.frontend() if backend == CUDNN_FP8 else package_function(backend)
    except ModuleNotFoundError as error:
        return error.name is not None and f"{module}.".startswith(f"{error.name}.")
    except (ImportError, OSError, RuntimeError):
        return False
    return False


def _described(error: Exception, heard: list[warnings.WarningMessage]) -> str:
    """One line: the error, and what torch warned of on the way, which is where SDPA puts its reasons."""
    said = [str(warning.message).split(" (Triggered")[0] for warning in heard]
    reasons = [text for text in dict.fromkeys(said) if "disabled" not in text]
    return " ".join("; ".join([str(error) or type(error).__name__, *reasons]).split())


@cache
def _say_unused(backend: str, reason: str) -> None:
    logger.warning("%s is installed but not used: it %s", backend, reason)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
