"""The data set as a source of clips: good samples by number, bad ones in a report.

Knows the order of the work. Parts: ``table`` (rows), ``recording`` (one clip), ``index`` (what is known of each).

Shape suffixes as in ``training.clips``.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from humo_rt.conditions.face_detector import require_detector
from training.clips import ASIDE, Clips
from training.data.humoset.index import Index, Verdict, inspect
from training.data.humoset.recording import FaceMode, Form, Recording, record
from training.data.humoset.sample import BadSample, Sample
from training.data.humoset.table import Columns, make_sample, read_rows
from training.errors import RunError

if TYPE_CHECKING:
    from training.tasks.sources import ClipSize, Split

logger = logging.getLogger(__name__)

_SAVE_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class HuMoSetSource:
    """What a recipe says about recorded clips.

    Args:
        folder: the data set.
        columns: names of the table's columns.
        faces: "auto", "file", "detect" or "none"; see ``Form``.
        index: file that keeps what reading every sample taught, or None to read them all at every start.
        references: reference images of every clip; a clip with fewer repeats them.
        heldout: share of the videos kept for the split "heldout" (at least one), chosen by a hash of their names.
        workers: threads that decode; None takes one for each processor.
    """

    folder: str
    columns: Columns = field(default_factory=Columns)
    faces: FaceMode = "auto"
    index: str | None = field(default=None, metadata=ASIDE)
    references: int = 1
    heldout: float = 0.02
    workers: int | None = field(default=None, metadata=ASIDE)

    def open(self, split: Split, count: int | None, size: ClipSize, device: torch.device) -> HuMoSet:
        """The clips of one split, at most ``count`` of them; see ``HuMoSet`` for errors."""
        whole = HuMoSet(
            self.folder,
            height=size.height,
            width=size.width,
            num_frames=size.num_frames,
            columns=self.columns,
            faces=self.faces,
            index=self.index,
            references=self.references,
            workers=self.workers,
            device=device,
        )
        return whole.split(split, self.heldout).first(count)


class HuMoSet:
    """A ``ClipSource`` over a folder in HuMoSet's layout. Opening it reads every sample that ``index`` does not know.

    ``ValueError`` for a folder, table or size that does not fit, or when no sample is left; ``RunError`` when faces
    must be found and the detector is not installed. ``rejected`` holds (name, problem) of what was skipped.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        height: int,
        width: int,
        num_frames: int,
        columns: Columns | None = None,
        faces: FaceMode = "auto",
        index: str | os.PathLike[str] | None = None,
        references: int = 1,
        workers: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.form = Form(height=height, width=width, num_frames=num_frames, faces=faces)
        self.rejected: list[tuple[str, BadSample]] = []
        self._references, self._device = references, torch.device(device)
        self._workers = workers or os.cpu_count() or 1
        samples = self._samples(Path(folder), columns or Columns())
        if faces == "detect" or (faces == "auto" and any(sample.face_mask is None for sample in samples)):
            _require_detector()
        verdicts = self._inspect(samples, Index(Path(index) if index else None, self.form))
        self._good: list[tuple[Sample, Verdict]] = []
        for sample, verdict in zip(samples, verdicts, strict=True):
            if verdict.problem is None:
                self._good.append((sample, verdict))
            else:
                self.rejected.append((sample.name, BadSample(*verdict.problem)))
        for name, problem in self.rejected:
            logger.warning("skipped %s: %s", name, problem)
        logger.info("%s: %s", folder, self.summary())
        if not self._good:
            raise ValueError(f"{str(folder)!r} holds no usable clip: {self.summary()}")

    def __len__(self) -> int:
        return len(self._good)

    def summary(self) -> str:
        """One line: how many clips can be used, and how many were skipped for what."""
        kinds = Counter(problem.kind for _, problem in self.rejected)
        skipped = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "none"
        return f"{len(self)} of {len(self) + len(self.rejected)} clips can be used; skipped: {skipped}"

    def names(self) -> list[str]:
        """The videos, as the table writes them, in the order of their numbers."""
        return [sample.name for sample, _ in self._good]

    def keys(self, indices: Sequence[int]) -> list[str]:
        """For every clip a hash of all it is made from: files, captions, size and length."""
        return [f"{self._good[index][1].content}-{self._references}" for index in indices]

    def clips(self, indices: Sequence[int]) -> Clips:
        """Decode clips, several at a time. ``BadSample`` when a file was damaged after it had been inspected."""
        chosen = [self._good[index] for index in indices]
        with ThreadPoolExecutor(min(self._workers, len(chosen))) as pool:
            recordings = list(pool.map(lambda pair: record(pair[0], self.form, pair[1].found), chosen))
        return self._collate([sample for sample, _ in chosen], recordings)

    def split(self, split: Split, heldout: float) -> HuMoSet:
        """The clips of "train" or "heldout". A video stays on its side when others come or go, but for the border."""
        order = sorted(range(len(self)), key=lambda index: blake2b(self._good[index][0].name.encode()).digest())
        border = max(round(heldout * len(order)), 1)
        if border >= len(order):
            raise ValueError(f"{len(order)} clips cannot be split: give more than {border}")
        return self._subset(sorted(order[:border] if split == "heldout" else order[border:]))

    def first(self, count: int | None) -> HuMoSet:
        """At most ``count`` clips."""
        return self if count is None else self._subset(range(min(count, len(self))))

    def _subset(self, indices: Iterable[int]) -> HuMoSet:
        part = object.__new__(HuMoSet)
        part.__dict__ |= self.__dict__ | {"_good": [self._good[index] for index in indices]}
        return part

    def _samples(self, folder: Path, columns: Columns) -> list[Sample]:
        samples = []
        for number, row in enumerate(read_rows(folder, columns)):
            try:
                samples.append(make_sample(row, folder, columns))
            except BadSample as problem:
                self.rejected.append((str(row[columns.video] or f"row {number}"), problem))
        return samples

    def _inspect(self, samples: list[Sample], index: Index) -> list[Verdict]:
        unknown = [sample for sample in samples if index.get(sample) is None]
        start = saved = time.monotonic()
        pool = ThreadPoolExecutor(self._workers)
        try:
            pending = {pool.submit(inspect, sample, self.form): sample for sample in unknown}
            for done, future in enumerate(as_completed(pending), 1):
                index.put(pending[future], future.result())
                if time.monotonic() - saved > _SAVE_SECONDS:
                    saved = time.monotonic()
                    index.save()
                    logger.info("read %d of %d samples in %.0f s", done, len(unknown), saved - start)
        finally:  # an interrupted start keeps what it learned
            pool.shutdown(cancel_futures=True)
            index.save()
        return [index.get(sample) for sample in samples]

    def _collate(self, samples: list[Sample], recordings: list[Recording]) -> Clips:
        def stacked(values: Iterable[Any]) -> torch.Tensor:
            return torch.stack(list(values)).to(self._device)

        slots = range(self._references)
        references = [[r.references_CHW[slot % len(r.references_CHW)] for slot in slots] for r in recordings]
        return Clips(
            video_BFCHW=stacked(r.video_FCHW for r in recordings),
            references_BRCHW=stacked(torch.stack(images) for images in references),
            audio_BS=stacked(r.sound_S for r in recordings),
            has_audio_B=torch.tensor([r.has_sound for r in recordings], device=self._device),
            face_BFHW=None if self.form.faces == "none" else stacked(r.face_FHW for r in recordings),
            mouth_BFHW=None,
            captions=[list(sample.captions) for sample in samples],
            captions_anonymous=[[] for _ in samples],
        )


def _require_detector() -> None:
    try:
        require_detector()
    except RuntimeError as error:
        raise RunError(str(error)) from error
