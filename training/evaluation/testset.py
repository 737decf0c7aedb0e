"""Held-out clips with everything that is true of them: what generated videos are compared with.

People, voices and sentences are those no training clip has. The "test" clips give the reported numbers; the "dev"
clips are other people with other sentences, to choose settings on.

Shape legend: B clips, F frames, H height, W width, S audio samples.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Split = Literal["test", "dev"]
SEEDS = {"test": 90_001, "dev": 90_002}


@dataclass(frozen=True, kw_only=True)
class HeldOutClips:
    """B held-out clips; pictures are uint8 RGB, ``audio_BS`` is float32 at 16 kHz.

    ``reference`` is what a model is given; ``portrait`` shows the same person once more, in other clothes and before
    another background. ``stated`` says per attribute which captions mention its value.
    """

    video_BFCHW: Tensor
    reference_BCHW: Tensor
    portrait_BCHW: Tensor
    face_BFHW: Tensor
    opening_BF: Tensor
    audio_BS: Tensor
    identity_B: Tensor
    attributes: dict[str, Tensor]
    stated: dict[str, Tensor]
    captions: list[str]
    captions_anonymous: list[str]

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def num_frames(self) -> int:
        return self.video_BFCHW.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.video_BFCHW.shape[-2:])


def held_out(
    count: int, *, split: Split, height: int, width: int, num_frames: int, device: torch.device | str, chunk: int = 32
) -> HeldOutClips:
    """Render ``count`` held-out clips with captions that name every attribute."""
    from training.data.procedural import ATTRIBUTES, ProceduralClips, SpeechBank, caption_from_attributes
    from training.data.procedural.seeds import stream

    seed = SEEDS[split]
    speech = SpeechBank.build(2 * count, seed=seed, split="heldout", num_frames=num_frames)
    clips = ProceduralClips(
        seed, split="heldout", height=height, width=width, num_frames=num_frames, device=device, speech=speech
    )
    batches = [clips.sample(range(start, min(start + chunk, count))) for start in range(0, count, chunk)]
    attributes = {name: torch.cat([batch.attributes[name] for batch in batches]) for name in ATTRIBUTES}
    numbers = {name: values.tolist() for name, values in attributes.items()}
    names = [{name: ATTRIBUTES[name][numbers[name][i]] for name in ATTRIBUTES} for i in range(count)]
    captions = [caption_from_attributes(one, stream("evaluation", split, i)) for i, one in enumerate(names)]
    mentions = [stated(caption, one) for caption, one in zip(captions, names, strict=True)]
    return HeldOutClips(
        video_BFCHW=torch.cat([batch.video for batch in batches]),
        reference_BCHW=torch.cat([batch.reference[:, 0] for batch in batches]),
        portrait_BCHW=clips.portraits(range(count), height, width),
        face_BFHW=torch.cat([batch.face_mask for batch in batches]),
        opening_BF=torch.cat([batch.mouth_open for batch in batches]).float(),
        audio_BS=torch.cat([batch.audio for batch in batches]),
        identity_B=torch.cat([batch.identity for batch in batches]),
        attributes=attributes,
        stated={name: torch.tensor([name in one for one in mentions], device=device) for name in ATTRIBUTES},
        captions=captions,
        captions_anonymous=[text for batch in batches for text in batch.captions_anonymous],
    )


def stated(caption: str, names: dict[str, str]) -> set[str]:
    """Which of ``names`` the caption mentions, when it was made from all of them.

    What is visible is always named. What is absent or plain may go unsaid, and is then nothing a model could follow.
    """
    silent = {
        "beard": names["beard"] == "none" and not re.search(r"no beard|clean-shaven", caption),
        "glasses": names["glasses"] == "none" and "no glasses" not in caption,
        "clothes_pattern": names["clothes_pattern"] == "plain"
        and not re.search(r"plain (\w+ )?(top|shirt|sweater|pullover)", caption),
    }
    return {name for name in names if not silent.get(name, False)}
