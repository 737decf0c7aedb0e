"""Settings of the judges' training run. Knows names and sizes only."""

from __future__ import annotations

from dataclasses import dataclass, field

JUDGE_NAMES = ("mouth", "identity", "attributes", "sync")


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """Which renders: the first ``clips`` and ``stills`` of the training split's set ``seed``.

    The clips speak ``utterances`` different utterances.

    ``natural_share`` of the utterances come from a natural voice (see ``SpeechBank.build``); ``speech`` is the file of
    a bank to use instead of speaking a new one. ``augment_audio`` colours the sound as rooms and microphones would.
    """

    seed: int = 7001
    clips: int = 1024
    stills: int = 6144
    utterances: int = 1024
    natural_share: float = 0.0
    speech: str | None = None
    augment_audio: bool = True
    height: int = 128
    width: int = 128
    num_frames: int = 97
    chunk: int = 64


@dataclass(frozen=True, kw_only=True)
class JudgesConfig:
    """Which judges learn, how wide they are, and how much each sees per step."""

    judges: tuple[str, ...] = JUDGE_NAMES
    width: int = 32
    mouth_images: int = 192
    people: int = 128
    sync_clips: int = 64
    sync_windows: int = 8
    pool: PoolConfig = field(default_factory=PoolConfig)

    def __post_init__(self) -> None:
        unknown = [name for name in self.judges if name not in JUDGE_NAMES]
        if unknown:
            raise ValueError(f"unknown judge {unknown[0]!r}: choose from {', '.join(JUDGE_NAMES)}")
