"""The data set: clips of talking people by index, with all that training and judging need to know about them.

Ties speech, people, captions and pictures together. Everything is a function of (seed, split, index); the identity of
clip ``index`` and its utterance are drawn from the same stream.

Shape suffixes: B clips, F frames, R references, H height, W width, S audio samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from training.data.procedural.appearance import ATTRIBUTES, Look, background, identity, outfit
from training.data.procedural.augment import augment
from training.data.procedural.captions import anonymous_caption, caption
from training.data.procedural.motion import move
from training.data.procedural.renderer import render
from training.data.procedural.scene import Scene, Shot
from training.data.procedural.seeds import stream
from training.data.procedural.speech import SpeechBank, Split, num_samples

NUM_PEOPLE = {"train": 8192, "heldout": 1024}
DEFAULT_BANK = 256
FACE_CROP_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class ClipBatch:
    """B clips on one device.

    video (B, F, 3, H, W) and reference (B, 1, 3, H, W) uint8; face_mask, mouth_mask (B, F, H, W) bool; mouth_open
    (B, F) in 0..1 and mouth_shape (B, F, 2) = width in -1..1, openness; audio (B, S) float32 at 16 kHz; silent
    (B,) bool; captions name the person, captions_anonymous nothing; attributes: index into
    ``ATTRIBUTES[name]``, (B,) each; identity (B,) the person's number.
    """

    video: Tensor
    reference: Tensor
    face_mask: Tensor
    mouth_mask: Tensor
    mouth_open: Tensor
    mouth_shape: Tensor
    audio: Tensor
    silent: Tensor
    captions: list[str]
    captions_anonymous: list[str]
    attributes: dict[str, Tensor]
    identity: Tensor

    def __len__(self) -> int:
        return len(self.captions)

    def to(self, device: torch.device | str) -> ClipBatch:
        """The same clips on another device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in moved.items()}
        moved["attributes"] = {name: value.to(device) for name, value in self.attributes.items()}
        return replace(self, **moved)


class ProceduralClips:
    """An endless set of talking people; ``sample`` renders the clips of given indices.

    ``speech`` is a bank of the same split and length; without one a small bank is spoken at the first use.
    """

    attributes = ATTRIBUTES

    def __init__(
        self,
        seed: int,
        split: Split = "train",
        *,
        height: int = 128,
        width: int = 128,
        num_frames: int = 97,
        device: torch.device | str = "cpu",
        speech: SpeechBank | None = None,
        augment_audio: bool = False,
    ) -> None:
        if split not in NUM_PEOPLE:
            raise ValueError(f"split {split!r} does not exist; use 'train' or 'heldout'")
        if speech is not None and (speech.split != split or speech.num_frames < num_frames):
            raise ValueError(
                f"the speech bank holds {speech.num_frames} frames of split {speech.split!r}, but {num_frames} frames "
                f"of {split!r} are asked for; build one with SpeechBank.build(split={split!r}, num_frames={num_frames})"
            )
        self.seed, self.split = seed, split
        self.height, self.width, self.num_frames = height, width, num_frames
        self.device = torch.device(device)
        self.augment_audio = augment_audio
        self._speech = speech

    @property
    def speech(self) -> SpeechBank:
        """The utterances that the people speak."""
        if self._speech is None:
            self._speech = SpeechBank.build(DEFAULT_BANK, seed=self.seed, split=self.split, num_frames=self.num_frames)
        return self._speech

    def sample(self, indices: Sequence[int]) -> ClipBatch:
        """Render the clips with these indices."""
        takes = [self._take(index) for index in indices]
        pictures = render(Scene([take.shot for take in takes], self.device), self.height, self.width)
        references = render(Scene([take.reference for take in takes], self.device), self.height, self.width).rgb
        for row, take in zip(references, takes, strict=True):
            _pad_white(row, take.reference_width)
        length = (len(takes), self.num_frames)
        mouth_BF2 = torch.from_numpy(np.stack([take.mouth for take in takes])).to(self.device)
        return ClipBatch(
            video=pictures.rgb.unflatten(0, length),
            reference=references.unsqueeze(1),
            face_mask=pictures.face.unflatten(0, length),
            mouth_mask=pictures.mouth.unflatten(0, length),
            mouth_open=mouth_BF2[..., 0],
            mouth_shape=mouth_BF2.flip(-1),
            audio=self._audio(indices, takes),
            silent=torch.tensor([take.silent for take in takes], device=self.device),
            captions=[take.caption for take in takes],
            captions_anonymous=[take.caption_anonymous for take in takes],
            attributes={
                name: torch.tensor([values.index(take.names[name]) for take in takes], device=self.device)
                for name, values in ATTRIBUTES.items()
            },
            identity=torch.tensor([take.person for take in takes], device=self.device),
        )

    def portrait(self, index: int, height: int, width: int) -> Tensor:
        """A still of the person of clip ``index`` with closed lips and open eyes: (3, H, W) uint8."""
        return self.portraits([index], height, width)[0]

    def portraits(self, indices: Sequence[int], height: int, width: int) -> Tensor:
        """Stills for several clips: (B, 3, H, W) uint8."""
        shots = []
        for index in indices:
            rng = stream("portrait", self.split, self.seed, index)
            shots.append(_shot(rng, self.person(index), outfit(rng), background(rng), np.zeros((1, 2)), eye_open=1.0))
        return render(Scene(shots, self.device), height, width).rgb

    def person(self, index: int) -> Look:
        """The person of clip ``index``."""
        return identity(self._person_number(stream("clip", self.split, self.seed, index)), self.split)

    def _person_number(self, rng: np.random.Generator) -> int:
        return int(rng.integers(NUM_PEOPLE[self.split]))

    def _take(self, index: int) -> _Take:
        """Decide everything about clip ``index`` before anything is drawn."""
        rng = stream("clip", self.split, self.seed, index)
        number = self._person_number(rng)
        person = identity(number, self.split)
        candidates = self.speech.of_gender(ATTRIBUTES["gender"].index(person.names["gender"]))
        utterance = int(rng.choice(candidates if len(candidates) else len(self.speech)))
        mouth = self.speech.mouth[utterance, : self.num_frames].astype(np.float32)
        clothes, wall = outfit(rng), background(rng)
        names = person.names | clothes.names | wall.names
        other = stream("reference", self.split, self.seed, index)
        cropped = bool(other.random() < FACE_CROP_SHARE)
        pose = np.array([[other.random() * (other.random() < 0.5), other.uniform(-1, 1)]])
        return _Take(
            person=number,
            names=names,
            utterance=utterance,
            silent=bool(self.speech.mode[utterance] == "silent"),
            mouth=mouth,
            shot=_shot(rng, person, clothes, wall, mouth),
            reference=_shot(other, person, outfit(other), background(other), pose, closer=1.25 if cropped else 1.0),
            reference_width=other.uniform(0.62, 0.85) if cropped else 1.0,
            caption=caption(names, rng),
            caption_anonymous=anonymous_caption(rng),
        )

    def _audio(self, indices: Sequence[int], takes: Sequence[_Take]) -> Tensor:
        rows = np.stack([self.speech.samples[take.utterance] for take in takes])[:, : num_samples(self.num_frames)]
        audio_BS = torch.from_numpy(rows).to(self.device).float() / 32767.0
        if not self.augment_audio:
            return audio_BS
        return augment(audio_BS, [("augment", self.split, self.seed, index) for index in indices])


@dataclass(frozen=True, kw_only=True)
class _Take:
    person: int
    names: dict[str, str]
    utterance: int
    silent: bool
    mouth: np.ndarray
    shot: Shot
    reference: Shot
    reference_width: float
    caption: str
    caption_anonymous: str


def _shot(
    rng: np.random.Generator,
    person: Look,
    clothes: Look,
    wall: Look,
    mouth_F2: np.ndarray,
    *,
    closer: float = 1.0,
    eye_open: float | None = None,
) -> Shot:
    framing = {"head_scale": rng.uniform(0.60, 0.67) * closer, "place_y": rng.uniform(-0.10, -0.05)}
    tracks = move(rng, mouth_F2)
    if len(mouth_F2) == 1 and eye_open is None:
        eye_open = float(rng.uniform(0.75, 1.0))  # nobody picks a still in the middle of a blink
    if eye_open is not None:
        tracks["eye_open"] = np.full(len(mouth_F2), eye_open)
    return Shot(numbers=person.numbers | clothes.numbers | wall.numbers | framing, tracks=tracks)


def _pad_white(picture_CHW: Tensor, share: float) -> None:
    """Keep the middle ``share`` of the width and make the rest white, as images of another shape arrive."""
    width = picture_CHW.shape[-1]
    margin = round(width * (1.0 - share) / 2)
    if margin:
        picture_CHW[..., :margin] = 255
        picture_CHW[..., width - margin :] = 255
