"""What was learned when every sample was read once: its problem, the faces found in it, a hash of its contents.

Knows one JSON file. An entry holds as long as the files' sizes and times and the wanted form stay the same, so a second
start reads no video, and an interrupted first one goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from humo_rt.conditions.face_detector import Box
from training.data.humoset.recording import Form, record
from training.data.humoset.sample import BadSample, Sample

logger = logging.getLogger(__name__)

VERSION = 1
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``problem`` is None or (kind, detail). ``content`` changes with every byte and setting the clip depends on."""

    content: str
    problem: tuple[str, str] | None = None
    found: list[list[Box]] | None = None


def inspect(sample: Sample, form: Form) -> Verdict:
    """Read one sample completely and say whether it can be used."""
    content = _content(sample, form)
    try:
        recording = record(sample, form)
    except BadSample as error:
        return Verdict(content=content, problem=(error.kind, error.detail))
    return Verdict(content=content, found=recording.found)


class Index:
    """Verdicts of samples, in memory and, with a ``path``, on disk."""

    def __init__(self, path: Path | None, form: Form) -> None:
        self._path = path
        self._form = {"version": VERSION, **asdict(form)}
        self._rows: dict[str, dict] = {}
        if path is not None and path.is_file():
            self._rows = self._read(path)

    def get(self, sample: Sample) -> Verdict | None:
        """The verdict, unless a file of the sample or its captions changed since."""
        row = self._rows.get(_stamp(sample))
        if row is None:
            return None
        problem, found = row["problem"], row["found"]
        return Verdict(
            content=row["content"],
            problem=None if problem is None else (problem[0], problem[1]),
            found=None if found is None else [[tuple(box) for box in boxes] for boxes in found],
        )

    def put(self, sample: Sample, verdict: Verdict) -> None:
        """Remember a verdict; ``save`` writes it."""
        self._rows[_stamp(sample)] = {"name": sample.name, **asdict(verdict)}

    def save(self) -> None:
        """Replace the file as a whole; nothing happens without a path."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.part")
        partial.write_text(json.dumps({"form": self._form, "rows": self._rows}))
        partial.replace(self._path)

    def _read(self, path: Path) -> dict[str, dict]:
        try:
            stored = json.loads(path.read_text())
            form, rows = stored["form"], stored["rows"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not an index of a data set ({error}): delete it or name another") from error
        if form == self._form:
            return rows
        logger.info("%s was made for other clips: every sample is read again", path)
        return {}


def _stamp(sample: Sample) -> str:
    """Names, sizes and times of the sample's files, and its captions: cheap to compare."""
    stats = [(path, path.stat()) for path in sample.files()]
    facts = [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    return hashlib.blake2b(repr((facts, sample.captions)).encode(), digest_size=16).hexdigest()


def _content(sample: Sample, form: Form) -> str:
    digest = hashlib.blake2b(repr((VERSION, form, sample.captions)).encode(), digest_size=16)
    for path in sample.files():
        digest.update(b"\0")
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()
