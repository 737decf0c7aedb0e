"""The table of captions: which column means what, and rows turned into samples.

Knows Parquet and the folder's layout. Opens no video and no image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.humoset.sample import BadSample, Sample
from training.errors import RunError

TABLE = "video_caption.parquet"
FOLDERS = {"video": "video", "reference": "reference_image", "face_mask": "face_mask"}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the table's columns.

    A cell of ``caption`` or of a reference column holds one string or a list of them. Paths are relative to the data
    set's folder, or to the part's own folder in it. ``face_mask`` may be absent from the table.
    """

    video: str = "video"
    caption: str = "caption"
    references: tuple[str, ...] = ("reference_image",)
    face_mask: str = "face_mask"


def read_rows(folder: Path, columns: Columns) -> list[dict[str, Any]]:
    """The table's rows, with the columns we use. ``ValueError`` names a missing table or column."""
    path = folder / TABLE
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} is not in HuMoSet's layout: it holds no {TABLE}")
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    except ImportError as error:
        raise RunError("reading the table needs pyarrow: pip install 'humo-rt[train]'") from error
    try:
        present = parquet.read_schema(path).names
        needed = [columns.video, columns.caption, *columns.references]
        if absent := [name for name in needed if name not in present]:
            raise ValueError(
                f"{path} has no column {', '.join(absent)}: name yours with Columns ({', '.join(present)})"
            )
        wanted = [*needed, *([columns.face_mask] if columns.face_mask in present else [])]
        return parquet.read_table(path, columns=wanted).to_pylist()
    except ArrowException as error:
        raise ValueError(f"{path} cannot be read ({error}): copy it again") from error


def make_sample(row: dict[str, Any], folder: Path, columns: Columns) -> Sample:
    """The sample of one row. ``BadSample`` for an empty caption, a missing video or a missing reference."""
    name = str(row[columns.video] or "")
    captions = tuple(caption for caption in map(str.strip, _strings(row[columns.caption])) if caption)
    if not captions:
        raise BadSample("empty caption", "the table says nothing of it")
    video = _find(folder, "video", name)
    if video is None:
        raise BadSample("missing video", f"{name!r} is not there")
    written = [path for column in columns.references for path in _strings(row[column])]
    references = {path: _find(folder, "reference", path) for path in written}
    if absent := [path for path, found in references.items() if found is None]:
        raise BadSample("missing reference", f"{', '.join(map(repr, absent))} is not there")
    if not references:
        raise BadSample("missing reference", "the table names none")
    mask = row.get(columns.face_mask)
    return Sample(
        name=name,
        video=video,
        references=tuple(filter(None, references.values())),
        captions=captions,
        face_mask=_find(folder, "face_mask", mask) if mask else None,
    )


def _strings(cell: Any) -> Iterator[str]:
    if isinstance(cell, str):
        cell = [cell]
    yield from (value for value in cell or () if isinstance(value, str) and value.strip())


def _find(folder: Path, part: str, written: str) -> Path | None:
    candidates = (folder / written, folder / FOLDERS[part] / written)
    return next((path for path in candidates if written and path.is_file()), None)
