"""Where training clips come from: the protocol between data sets and tasks.

Knows shapes only. A ``ClipSource`` hands out decoded clips (procedural people, a folder in HuMoSet's layout); what a
task does with them (encode, cache, crop) is its own affair.

Shape suffixes: B clips, F frames (4n + 1), R reference images, C colour channels, H height, W width, S audio samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

# Metadata of a field of a source's settings that does not change which clips there are.
ASIDE = {"aside": True}


@dataclass(frozen=True, kw_only=True)
class Clips:
    """A few decoded clips of equal size, on one device.

    video_BFCHW: uint8 RGB at 25 fps.
    references_BRCHW: uint8 RGB, already fitted on white to the size of the video; other shots of the same person.
    audio_BS: float32, 16 kHz, S = round(F / 25 * 16000); zeros for silent clips.
    has_audio_B: bool; whether the clip may teach audio-visual sync.
    face_BFHW, mouth_BFHW: bool masks, or None when the source has none.
    captions: for every clip, one or more captions that describe person and scene.
    captions_anonymous: for every clip, captions that say nothing of the person (may be empty lists).
    """

    video_BFCHW: Tensor
    references_BRCHW: Tensor
    audio_BS: Tensor
    has_audio_B: Tensor
    face_BFHW: Tensor | None
    mouth_BFHW: Tensor | None
    captions: list[list[str]]
    captions_anonymous: list[list[str]]

    def __len__(self) -> int:
        return self.video_BFCHW.shape[0]


def to_unit_range(pixels: Tensor) -> Tensor:
    """uint8 pixels as the video autoencoder takes them: float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1.0


class ClipSource(Protocol):
    """A finite, indexable set of clips; ``clips(indices)`` is a pure function of the indices."""

    def __len__(self) -> int: ...

    def clips(self, indices: Sequence[int]) -> Clips: ...


@runtime_checkable
class Keyed(Protocol):
    """Optional part of a source whose clips can change on disk: one hash per clip of all it is made from."""

    def keys(self, indices: Sequence[int]) -> list[str]: ...


def contents(source: Any) -> str:
    """What decides the clips of a source's settings, a dataclass, for comparison: all fields that are not ``ASIDE``."""
    deciding = {f.name: getattr(source, f.name) for f in fields(source) if f.metadata != ASIDE}
    return f"{type(source).__name__} {deciding}"
