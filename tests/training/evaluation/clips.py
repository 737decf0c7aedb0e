"""Invented held-out clips: noise whose brightness is the mouth's opening, for tests of the protocol."""

from __future__ import annotations

import torch

from training.data.procedural import ATTRIBUTES
from training.evaluation.testset import HeldOutClips


def invented_clips(count: int = 12, frames: int = 33, size: int = 32) -> HeldOutClips:
    """``count`` different people; frame t of clip i has the grey value 255 * opening[i, t]."""
    generator = torch.Generator().manual_seed(0)
    opening = torch.nn.functional.avg_pool1d(torch.rand(count, 1, frames + 4, generator=generator), 5, 1)[:, 0]
    video = (255 * opening).to(torch.uint8)[:, :, None, None, None].expand(count, frames, 3, size, size).contiguous()
    people = torch.randint(0, 255, (count, 3, 1, 1), generator=generator).expand(count, 3, size, size).to(torch.uint8)
    attributes = {name: torch.arange(count) % len(values) for name, values in ATTRIBUTES.items()}
    face = torch.zeros(count, frames, size, size, dtype=torch.bool)
    face[:, :, 8:24, 8:24] = True
    return HeldOutClips(
        video_BFCHW=video,
        reference_BCHW=people,
        portrait_BCHW=people,
        face_BFHW=face,
        opening_BF=opening,
        audio_BS=torch.randn(count, frames * 640, generator=generator) * opening.repeat_interleave(640, -1),
        identity_B=torch.arange(count),
        attributes=attributes,
        stated={name: torch.arange(count) < 6 for name in attributes},
        captions=[f"person {i} is talking" for i in range(count)],
        captions_anonymous=["someone is talking"] * count,
    )
