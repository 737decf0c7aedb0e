"""Shots packed into tensors: every number the painters need, one row per frame.

Knows names and shapes of parameters, nothing of drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.data.procedural.motion import TRACKS


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One take: static ``numbers`` by name (floats or RGB triples) and ``tracks`` by name, each (F,)."""

    numbers: dict[str, float | np.ndarray]
    tracks: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How far a scene's heads travel: ranges of their size and place in the picture, the largest turns.

    Lets the painters leave out pixels that a feature never reaches, without asking the device.
    """

    scale: tuple[float, float]
    roll: float
    yaw: float
    pitch: float
    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def of(cls, shots: Sequence[Shot]) -> Extent:
        """Measure the shots."""
        zoom = _tracks(shots, "zoom")
        scale = _column(shots, "head_scale") * zoom
        x = (_tracks(shots, "head_x") - _tracks(shots, "pan_x")) * zoom
        y = (_tracks(shots, "head_y") + _column(shots, "place_y") - _tracks(shots, "pan_y")) * zoom
        return cls(
            scale=(float(scale.min()), float(scale.max())),
            roll=float(np.abs(_tracks(shots, "roll")).max()),
            yaw=float(np.abs(_tracks(shots, "yaw")).max()),
            pitch=float(np.abs(_tracks(shots, "pitch")).max()),
            x=(float(x.min()), float(x.max())),
            y=(float(y.min()), float(y.max())),
        )


def _column(shots: Sequence[Shot], name: str) -> np.ndarray:
    return np.array([[shot.numbers[name]] for shot in shots])


def _tracks(shots: Sequence[Shot], name: str) -> np.ndarray:
    return np.stack([shot.tracks[name] for shot in shots])


class Frame:
    """Parameters of N frames by attribute: floats as (N, 1, 1), colours as (N, 3, 1, 1)."""

    def __init__(self, columns: dict[str, Tensor]) -> None:
        self.__dict__.update(columns)

    def __getattr__(self, name: str) -> Tensor:
        raise AttributeError(f"no parameter {name!r} in this scene")


class Scene:
    """A batch of shots of equal length on one device; ``frames(start, stop)`` cuts a chunk of the B * F frames."""

    def __init__(self, shots: Sequence[Shot], device: torch.device | str) -> None:
        self.extent = Extent.of(shots)
        names = sorted(shots[0].numbers)
        self._layout: list[tuple[str, int, int]] = []
        width = 0
        for name in names:
            size = np.size(shots[0].numbers[name])
            self._layout.append((name, width, size))
            width += size
        static_BP = np.empty((len(shots), width), np.float32)
        for row, shot in zip(static_BP, shots, strict=True):
            row[:] = np.concatenate([np.atleast_1d(shot.numbers[name]) for name in names])
        tracks_BFT = np.stack([np.stack([shot.tracks[name] for name in TRACKS], axis=-1) for shot in shots])
        self.static_BP = torch.from_numpy(static_BP).to(device)
        self.tracks_BFT = torch.from_numpy(tracks_BFT.astype(np.float32)).to(device)

    @property
    def num_frames(self) -> int:
        """Frames of all shots together."""
        return self.tracks_BFT.shape[0] * self.tracks_BFT.shape[1]

    def frames(self, start: int, stop: int) -> Frame:
        """Parameters of frames ``start..stop`` in the order shot after shot."""
        length = self.tracks_BFT.shape[1]
        index_N = torch.arange(start, min(stop, self.num_frames), device=self.static_BP.device)
        static_NP = self.static_BP[index_N // length]
        tracks_NT = self.tracks_BFT.flatten(0, 1)[index_N]
        columns = {}
        for name, offset, size in self._layout:
            column = static_NP[:, offset : offset + size]
            columns[name] = column[:, :, None, None] if size == 3 else column[:, :, None]
        for offset, name in enumerate(TRACKS):
            columns[name] = tracks_NT[:, offset, None, None]
        return Frame(columns)
