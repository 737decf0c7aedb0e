"""Small forwards of a DiT as CUDA graphs: recorded once for each shape, then replayed with one launch.

A block is some fifteen launches, which cost the host about 0.4 ms; where the card is done sooner, it waits. A recording
reads its inputs from memory of its own. It keeps no weights, but reads them where they were: change them in place only.

Shape legend: B samples, U distinct inputs of them, C latent channels, T latent frames, H W latent size.
"""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from humo_rt.config import DiTConfig
from humo_rt.model.dit import Context, HumoDiT

logger = logging.getLogger(__name__)

# Floating-point operations of one block, of all samples, that take a large card about as long as its launches the host.
LARGEST_BLOCK = 2e11
# Branches one at a time, of two rows of a guidance table; each keeps its activations. A generation that needs more has
# more, until another one takes their place.
MOST_RECORDINGS = 8


class ReplayedDiT:
    """Called like the ``HumoDiT`` it holds. Recording waits for the device; a replay, as any forward, does not.

    Inputs other than latents and timesteps are copied once and known again as the same tensors: what changes has to
    come as another one, not in place.

    ``always`` replays forwards of every size; otherwise those whose launches would take longer than their work.
    """

    def __init__(self, dit: HumoDiT, *, always: bool = False) -> None:
        self.dit = dit
        self.config = dit.config
        self.project_context = dit.project_context
        self.place_faces = dit.place_faces
        self.always = always
        self._recordings: list[_Recording] = []

    def __call__(self, x_UCTHW: Tensor, timestep_U: Tensor, **inputs: Any) -> Any:
        rows = inputs.get("rows")
        samples = x_UCTHW.shape[0] if rows is None else rows.shape[0]
        if not (self.always or block_work(self.config, samples, x_UCTHW.shape[2:]) <= LARGEST_BLOCK):
            return self.dit(x_UCTHW, timestep_U, **inputs)
        recording = self._recording(x_UCTHW, timestep_U, inputs)
        if recording is None:
            return self.dit(x_UCTHW, timestep_U, **inputs)
        return recording.replay(x_UCTHW, timestep_U)

    def forget(self) -> None:
        """Free what was recorded."""
        self._recordings.clear()

    def _recording(self, x: Tensor, timestep: Tensor, inputs: dict[str, Any]) -> _Recording | None:
        """One that holds these inputs, latents and timesteps aside; None where recording fails, which is said once."""
        kind = type(self.dit.blocks[0])
        tensors = _tensors(inputs)
        signature = _signature(kind, x, timestep, inputs)
        alike = [recording for recording in self._recordings if recording.signature == signature]
        for recording in alike:
            if recording.holds(tensors):
                return recording
        for recording in alike:
            if recording.is_free():
                recording.fill(tensors)
                return recording
        try:
            recording = _Recording(self.dit, signature, x, timestep, inputs)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            _say_unrecorded(str(error))
            return None
        idle = [old for old in self._recordings if not old.is_in_use()]
        dropped = idle[: max(0, len(self._recordings) + 1 - MOST_RECORDINGS)]
        self._recordings = [*(old for old in self._recordings if old not in dropped), recording]
        return recording


class _Recording:
    """One graph, its inputs and its output."""

    def __init__(self, dit: HumoDiT, signature: Any, x: Tensor, timestep: Tensor, inputs: dict[str, Any]) -> None:
        self.signature = signature
        self._x, self._timestep = x.clone(), timestep.clone()
        own = _mapped(inputs, torch.clone)
        self._own = _tensors(own)
        self._given = [weakref.ref(tensor) for tensor in _tensors(inputs)]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device_of(x):
            aside, current = torch.cuda.Stream(), torch.cuda.current_stream()
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                dit(self._x, self._timestep, **own)  # compiles kernels and chooses algorithms
            current.wait_stream(aside)
            # What the collector frees while something is recorded may end the recording.
            gc.collect()
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._result = dit(self._x, self._timestep, **own)

    def holds(self, tensors: list[Tensor]) -> bool:
        return all(given() is tensor for given, tensor in zip(self._given, tensors, strict=True))

    def is_free(self) -> bool:
        """Whether what it holds is gone, as after its generation."""
        return any(given() is None for given in self._given)

    def is_in_use(self) -> bool:
        """Whether a generation may ask for it again: something of what it was given is still there."""
        return any(given() is not None for given in self._given)

    def fill(self, tensors: list[Tensor]) -> None:
        for own, tensor in zip(self._own, tensors, strict=True):
            own.copy_(tensor)
        self._given = [weakref.ref(tensor) for tensor in tensors]

    def replay(self, x: Tensor, timestep: Tensor) -> Any:
        self._x.copy_(x)
        self._timestep.copy_(timestep)
        self._graph.replay()
        return _mapped(self._result, torch.clone)  # the next replay writes over it


def block_work(config: DiTConfig, samples: int, size_THW: tuple[int, ...]) -> float:
    """Floating-point operations of one block; a multiplication and an addition are two."""
    tokens = 1
    for length, patch in zip(size_THW, config.patch_size, strict=True):
        tokens *= length // patch
    linear = 2 * tokens * (8 * config.dim**2 + 2 * config.dim * config.ffn_dim)
    return float(samples * (linear + 4 * tokens**2 * config.dim))


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with ``change`` applied to every tensor in it."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Context):
        return Context(_mapped(value.text, change), _mapped(value.audio, change))
    if isinstance(value, dict):
        return {name: _mapped(each, change) for name, each in value.items()}
    if isinstance(value, list):
        return [_mapped(each, change) for each in value]
    if isinstance(value, tuple):
        parts = [_mapped(each, change) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _mapped(value, note)
    return found


def _signature(kind: type, x: Tensor, timestep: Tensor, inputs: dict[str, Any]) -> Any:
    """What two calls must share to run on one recording: the kind of block, every shape and dtype, every number."""
    shapes = [(tensor.shape, tensor.dtype) for tensor in (x, timestep, *_tensors(inputs))]
    rest = {name: value for name, value in inputs.items() if not _tensors(value)}
    return kind, x.device, shapes, rest, list(inputs)


@cache
def _say_unrecorded(reason: str) -> None:
    logger.warning("a forward cannot be recorded as a CUDA graph and runs launch by launch, slower: %s", reason)
