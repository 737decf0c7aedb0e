"""Recorded speech, which has no true mouth track: does the mouth move with the voice and rest in its pauses?

The sound's loudness stands in for the track. Its correlation with a true mouth is well below one, so the same number
measured on true renders belongs beside it.

Shape legend: N windows of sound, B clips, F frames, S samples at 16 kHz.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from humo_rt.config import FPS, SAMPLE_RATE
from training.evaluation import metrics
from training.evaluation.generation import DEFAULT_SCALES, Generator, Order, Scales
from training.evaluation.testset import HeldOutClips
from training.judges.panel import Panel

logger = logging.getLogger(__name__)

LEAD_S = 0.4
MIN_SPEECH_SHARE = 1 / 3
QUIET_SHARE = 0.06
MIN_PAUSE_FRAMES = 6
CLOSING_FRAMES = 2
SMOOTHING_FRAMES = 1.0


def envelope(samples_BS: Tensor, num_frames: int) -> Tensor:
    """Root mean square of the sound of every video frame, smoothed by a Gaussian of one frame (40 ms): (B, F)."""
    needed = num_frames * SAMPLE_RATE // FPS
    padded = F.pad(samples_BS.float(), (0, max(0, needed - samples_BS.shape[-1])))[:, :needed]
    loudness = padded.unflatten(-1, (num_frames, -1)).square().mean(-1).sqrt()
    reach = math.ceil(3 * SMOOTHING_FRAMES)
    offsets = torch.arange(-reach, reach + 1, device=loudness.device)
    kernel = torch.softmax(-0.5 * (offsets / SMOOTHING_FRAMES) ** 2, dim=0)[None, None]
    return F.conv1d(F.pad(loudness[:, None], (reach, reach), mode="replicate"), kernel)[:, 0]


def pauses(envelope_BF: Tensor) -> Tensor:
    """Frames in which the voice rests, (B, F) bool.

    Quiet runs of at least 6 frames (0.24 s), without their first two: lips need that time to meet.
    """
    loud = torch.quantile(envelope_BF, 0.95, dim=-1, keepdim=True)
    quiet = (envelope_BF < QUIET_SHARE * loud).cpu().numpy()
    resting = np.zeros_like(quiet)
    for row, result in zip(quiet, resting, strict=True):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            if stop - start >= MIN_PAUSE_FRAMES:
                result[start + CLOSING_FRAMES : stop] = True
    return torch.from_numpy(resting)


def windows(path: Path, num_frames: int) -> list[np.ndarray]:
    """Cut a recording, with 0.4 s of silence before it, into pieces as long as a clip; the last ends in silence.

    Pieces of which less than a third is the recording are left out.
    """
    from humo_rt.media import read_audio

    length = num_frames * SAMPLE_RATE // FPS
    lead = round(LEAD_S * SAMPLE_RATE)
    samples = np.concatenate([np.zeros(lead, np.float32), read_audio(path)])
    starts = range(0, len(samples), length)
    spoken = [min(start + length, len(samples)) - max(start, lead) for start in starts]
    pieces = [
        samples[a : a + length] for a, some in zip(starts, spoken, strict=True) if some >= MIN_SPEECH_SHARE * length
    ]
    return [np.pad(piece, (0, length - len(piece))) for piece in pieces]


def speech_scores(opening_BF: Tensor, audio_BS: Tensor, *, lag: int | None, group_B: Tensor | None = None) -> dict:
    """Correlation of the opening with the envelope, and how open the mouth is in speech and in pauses."""
    loudness = envelope(audio_BS, opening_BF.shape[1]).cpu()
    resting, opening = pauses(loudness), opening_BF.cpu()
    in_pauses = opening[resting]
    return {
        "envelope": asdict(metrics.track_score(opening, loudness, lag=lag, group_B=group_B)),
        "opening_in_speech": opening[~resting].mean().item(),
        "opening_in_pauses": in_pauses.mean().item() if len(in_pauses) else None,
        "closed_in_pauses": metrics.closed_rate(in_pauses) if len(in_pauses) else None,
        "pause_frames": int(resting.sum()),
    }


def evaluate_recordings(
    generate: Generator,
    panel: Panel,
    paths: Sequence[Path],
    clips: HeldOutClips,
    *,
    lag: int | None = None,
    people: int = 4,
    scales: Scales = DEFAULT_SCALES,
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Let ``people`` held-out people speak every recording (mode TIA, anonymous captions).

    ``lag`` is the test set's; None chooses one on these videos. Returns the scores with those of true renders beside
    them, the videos (N * people, F, 3, H, W) and their sound. ``ValueError`` when every recording is too short.
    """
    cut = [(index, piece) for index, path in enumerate(paths) for piece in windows(path, clips.num_frames)]
    if not cut:
        raise ValueError(f"the recordings are too short for a clip of {clips.num_frames} frames: give longer ones")
    people = min(people, len(clips))
    audio_BS = torch.from_numpy(np.stack([piece for _, piece in cut for _ in range(people)])).to(clips.audio_BS)
    group_B = torch.tensor([window for window in range(len(cut)) for _ in range(people)])
    person = torch.arange(people).repeat(len(cut)).to(clips.reference_BCHW.device)
    height, width = clips.size
    video = generate(
        Order(
            prompts=[clips.captions_anonymous[i] for i in person.tolist()],
            height=height,
            width=width,
            num_frames=clips.num_frames,
            references_NCHW=clips.reference_BCHW[person],
            audio_NS=audio_BS,
            scales=scales,
        )
    )
    return (
        {
            "generated": _read(panel, video, audio_BS, lag=lag, group_B=group_B),
            "true renders": _read(panel, clips.video_BFCHW, clips.audio_BS),
            "recordings": [path.name for path in paths],
            "windows": len(cut),
        },
        video,
        audio_BS,
    )


def _read(
    panel: Panel, video_BFCHW: Tensor, audio_BS: Tensor, *, lag: int | None = None, group_B: Tensor | None = None
) -> dict[str, Any]:
    mouths = panel.mouths(video_BFCHW)
    scores = speech_scores(mouths.opening_BF, audio_BS, lag=lag, group_B=group_B)
    return scores | {"sync": asdict(metrics.sync_score(panel.sync(video_BFCHW, mouths.centre_BF2, audio_BS)))}
