"""One row of the data set, and what can be wrong with it. Knows no file formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Where the parts of one clip are. ``name`` is the video's path as the table writes it."""

    name: str
    video: Path
    references: tuple[Path, ...]
    captions: tuple[str, ...]
    face_mask: Path | None = None

    def files(self) -> list[Path]:
        """Everything the clip is made from, in a fixed order."""
        return [self.video, *self.references, *([self.face_mask] if self.face_mask else [])]


class BadSample(ValueError):
    """A sample that cannot be used. ``kind`` groups equal causes in a summary; the message says the rest."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
