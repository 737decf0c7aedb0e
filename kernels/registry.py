"""Which ops there are, which backends can run each, and which one runs.

Every op has a reference in PyTorch. A backend ``b`` of op ``o`` is the function ``run`` in the module ``o.b_impl``
beside it, imported on first use. Tensors off the GPU always take the reference. Knows nothing of what an op computes.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch

logger = logging.getLogger(__name__)

OPS = (
    "audio_face_attention",
    "audio_face_probabilities",
    "text_attention",
    "merge_attention",
    "adaln_modulate",
    "adaln_modulate_quantize",
    "residual_norm",
    "gate_residual_norm",
    "gate_residual_norm_quantize",
    "gather_norm",
    "scatter_residual_norm",
    "gelu_quantize",
    "quantize_rows",
    "quantize_tensor",
    "qk_norm_rope",
    "qk_norm_rope_quantize",
    "guided_update",
    "rms_silu",
    "causal_conv",
)
BACKENDS = ("cuda", "triton")  # in order of preference, but for those below
FASTER_IN_TRITON = frozenset({"guided_update"})  # 38 us against 46 at the size of HuMo-1.7B on an H100
REFERENCE = "reference"

_forced: ContextVar[str | None] = ContextVar("humo_rt_kernel_backend", default=None)


@cache
def unavailable(op: str, backend: str, device: torch.device | None = None) -> str | None:
    """Why ``backend`` cannot run ``op`` on ``device``, by default the current card, or None when it can."""
    if importlib.util.find_spec(f"humo_rt.kernels.{op}.{backend}_impl") is None:
        return f"{op} has no {backend} implementation"
    if backend == "triton":
        return None if importlib.util.find_spec("triton") else "triton is not installed"
    try:
        compiled = importlib.import_module("humo_rt._C")
    except ImportError as error:
        return f"humo_rt._C cannot be loaded ({error})"
    if not hasattr(compiled, op):
        return f"humo_rt._C was built without {op}: build it again"
    written_for = getattr(importlib.import_module(f"humo_rt.kernels.{op}.cuda_impl"), "CAPABILITY", None)
    return _unsuited_card(written_for, device)


def _unsuited_card(capability: int | None, device: torch.device | None) -> str | None:
    """Why the card cannot run what was written for one family of cards, or None."""
    if capability is None or not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return (
        None if major == capability else f"it is for compute capability {capability}.x, this card has {major}.{minor}"
    )


def implementation(op: str, backend: str, device: torch.device | None = None) -> Callable[..., torch.Tensor]:
    """The function that runs ``op`` on ``backend`` (or the reference). ``RuntimeError`` says why ``device``, by default
    the current card, has none."""
    if backend == REFERENCE:
        return importlib.import_module(f"humo_rt.kernels.{op}.reference").reference
    reason = unavailable(op, backend, device)
    if reason is not None:
        raise RuntimeError(f"{op} cannot run on {backend}: {reason}")
    return importlib.import_module(f"humo_rt.kernels.{op}.{backend}_impl").run


def select(op: str, device: torch.device, order: tuple[str, ...] | None = None) -> Callable[..., torch.Tensor]:
    """The implementation to use for tensors on ``device``: the forced one, else the first available of ``order``, which
    is ``preferred`` unless the tensors decide."""
    order = preferred(op) if order is None else order
    forced = _forced.get()
    if forced in BACKENDS and device.type != "cuda":
        raise RuntimeError(f"{op} cannot run on {forced}: its tensors are on {device}, not on a GPU")
    if forced is not None:
        return implementation(op, forced, device)
    if device.type != "cuda":
        return implementation(op, REFERENCE)
    for backend in order:
        if unavailable(op, backend, device) is None:
            _say_second(op, backend, order[0], device)
            return implementation(op, backend, device)
    _say_slow(op, device)
    return implementation(op, REFERENCE)


def preferred(op: str) -> tuple[str, ...]:
    """The backends of ``op``, the faster one first."""
    return BACKENDS[::-1] if op in FASTER_IN_TRITON else BACKENDS


def exporting() -> bool:
    """Whether a graph is being traced by ``torch.export``, which should hold plain operators.

    torch 2.11's compiler takes ``is_exporting`` for true in every graph it makes, so its graphs are excluded: they keep
    the op.
    """
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


@cache
def _say_slow(op: str, device: torch.device) -> None:
    reasons = (unavailable(op, backend, device) for backend in BACKENDS)
    logger.warning("%s runs in plain PyTorch, which is slower: %s", op, "; ".join(filter(None, reasons)))


@cache
def _say_second(op: str, backend: str, faster: str, device: torch.device) -> None:
    """Where the faster backend was written but cannot run: at level INFO, for neither is slow."""
    if backend != faster and importlib.util.find_spec(f"humo_rt.kernels.{op}.{faster}_impl") is not None:
        logger.info("%s runs in %s, which is slower than %s: %s", op, backend, faster, unavailable(op, faster, device))


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Run every op on ``backend`` ("cuda", "triton" or "reference") within the block: for tests and benchmarks."""
    if backend not in (*BACKENDS, REFERENCE):
        raise ValueError(f"unknown backend {backend!r}: choose one of {', '.join((*BACKENDS, REFERENCE))}")
    token = _forced.set(backend)
    try:
        yield
    finally:
        _forced.reset(token)
