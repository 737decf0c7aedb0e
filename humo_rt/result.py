"""What a generation returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from humo_rt.runtime.trace import Trace


@dataclass(frozen=True, kw_only=True)
class GenerationResult:
    """A finished video with everything needed to make it again.

    frames: (F, H, W, 3) uint8 RGB. audio: (S, channels) float32 at ``sample_rate``, the
    sound as given, cut or padded with silence to the length of the video; or None.
    timings: seconds per stage; a GPU may finish a stage during the next one, and "encode" is what writing the file took
    beyond decoding, beside which it runs. trace: the same, each stage waited for,
    with steps and memory; only when asked for. output: the file written, if any. settings: everything that decides the
    video, JSON-ready; those that ``GenerateOptions`` names, given to ``generate``, make it again on the same machine.
    """

    frames: np.ndarray
    audio: np.ndarray | None
    sample_rate: int
    fps: int
    seed: int
    timings: dict[str, float]
    settings: dict[str, Any]
    output: Path | None = None
    trace: Trace | None = None

    @property
    def duration(self) -> float:
        """Length of the video in seconds."""
        return len(self.frames) / self.fps

    def save(self, path: str | Path) -> Path:
        """Write the video, with its sound and settings, as an MP4."""
        from humo_rt.media import VideoWriter

        height, width = self.frames.shape[1:3]
        sound = {} if self.audio is None else {"audio": self.audio, "sample_rate": self.sample_rate}
        with VideoWriter(path, fps=self.fps, width=width, height=height, metadata=self.settings, **sound) as writer:
            writer.write(self.frames)
        return Path(path)
