"""The data sets a DiT recipe can name, as ``ClipSource``.

Knows how each data set describes a clip and turns it into ``training.clips.Clips``. Data sets are imported when opened.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from training.clips import ASIDE, Clips, ClipSource

if TYPE_CHECKING:
    from training.data.procedural import ProceduralClips, SpeechBank

logger = logging.getLogger(__name__)

Split = Literal["train", "heldout"]


@dataclass(frozen=True, kw_only=True)
class ClipSize:
    """Pixels and frames (4n + 1, at 25 fps) of every clip."""

    height: int
    width: int
    num_frames: int


class SourceConfig(Protocol):
    """What a recipe says about its data."""

    def open(self, split: Split, count: int | None, size: ClipSize, device: torch.device) -> ClipSource:
        """The data set; ``count`` caps the number of clips, None takes the configured number."""
        ...


@dataclass(frozen=True, kw_only=True)
class ProceduralSource:
    """Procedural talking people, decided by ``seed``.

    ``clips`` are rendered; they speak ``utterances`` different utterances, which ``speech_cache`` (a folder) keeps for
    the next run. ``natural_share`` of those for training come from a natural voice (see ``SpeechBank.build``). Every
    clip has ``captions`` wordings of either kind. ``augment_audio`` colours the sound as rooms and microphones would.
    """

    clips: int = 20_000
    utterances: int = 6_000
    natural_share: float = 0.0
    captions: int = 3
    augment_audio: bool = True
    speech_cache: str | None = field(default=None, metadata=ASIDE)
    seed: int = 0

    def open(self, split: Split, count: int | None, size: ClipSize, device: torch.device) -> ClipSource:
        count = count or self.clips

        def people() -> ProceduralClips:
            from training.data.procedural import ProceduralClips

            return ProceduralClips(
                self.seed,
                split=split,
                height=size.height,
                width=size.width,
                num_frames=size.num_frames,
                device=device,
                speech=self._speech(split, min(self.utterances, 4 * count), size.num_frames),
                augment_audio=self.augment_audio,
            )

        return Procedural(people, count, self.captions)

    def _speech(self, split: Split, utterances: int, num_frames: int) -> SpeechBank:
        from training.data.procedural import SpeechBank

        natural = self.natural_share if split == "train" else 0.0
        name = f"speech-{split}-{self.seed}-{utterances}-{num_frames}-{natural:g}.npz"
        path = Path(self.speech_cache) / name if self.speech_cache else None
        if path and path.is_file():
            return SpeechBank.load(path)
        bank = SpeechBank.build(utterances, seed=self.seed, split=split, num_frames=num_frames, natural_share=natural)
        logger.info("%d utterances spoken for %s", len(bank), split)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".part-{os.getpid()}-{path.name}")  # every process of a run may speak them
            bank.save(partial)
            partial.replace(path)
        return bank


class Procedural:
    """``ProceduralClips`` as a ``ClipSource``: the first clips of its endless set, with several captions each.

    ``people`` makes the set, which takes a while, when the first clip is asked for.
    """

    def __init__(self, people: Callable[[], ProceduralClips], count: int, captions: int) -> None:
        self._people, self._count, self._captions = people, count, captions

    @cached_property
    def rendered(self) -> ProceduralClips:
        """The endless set behind it."""
        return self._people()

    def __len__(self) -> int:
        return self._count

    def clips(self, indices: Sequence[int]) -> Clips:
        from training.data.procedural.captions import anonymous_caption, caption
        from training.data.procedural.seeds import stream

        rendered = self.rendered
        batch = rendered.sample(list(indices))
        numbers = {name: values.tolist() for name, values in batch.attributes.items()}
        named, anonymous = [], []
        for row, index in enumerate(indices):
            traits = {name: rendered.attributes[name][values[row]] for name, values in numbers.items()}
            rng = stream("wording", rendered.split, rendered.seed, index)
            named.append([batch.captions[row], *(caption(traits, rng) for _ in range(self._captions - 1))])
            anonymous.append([anonymous_caption(rng) for _ in range(self._captions)])
        return Clips(
            video_BFCHW=batch.video,
            references_BRCHW=batch.reference,
            audio_BS=batch.audio,
            has_audio_B=torch.ones(len(batch), dtype=torch.bool, device=batch.video.device),
            face_BFHW=batch.face_mask,
            mouth_BFHW=batch.mouth_mask,
            captions=named,
            captions_anonymous=anonymous,
        )
