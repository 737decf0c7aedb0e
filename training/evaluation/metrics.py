"""Scores of generated videos, from measured tracks, embeddings and masks.

Pure arithmetic on tensors: nothing here generates, renders or loads a network. One lag serves a whole test set, because
the best lag *per clip* lets unrelated tracks look synchronous.

Shape legend: B clips, F video frames, C channels, D embedding width, L lags, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_LAG = 5
# A track whose deviation is a smaller share of the set's largest value is nearly silent: it says nothing of synchrony.
MIN_TRACK_DEVIATION = 0.05
CLOSED_OPENING = 0.15


@dataclass(frozen=True, kw_only=True)
class TrackScore:
    """Agreement of measured tracks with their true tracks at one lag.

    ``lag`` is in video frames, positive when the picture is late. ``control`` pairs every measured track with other
    clips' true tracks at the same lag. ``error`` is the standard error of ``correlation``.
    """

    correlation: float
    error: float
    lag: int
    control: float
    clips: int
    skipped: int


@dataclass(frozen=True, kw_only=True)
class SyncScore:
    """SyncNet's numbers: ``distance`` is the smallest mean distance over lags, ``confidence`` the median minus it."""

    confidence: float
    distance: float
    lag: float
    within_one: float


def pearson(a_BF: Tensor, b_BF: Tensor) -> Tensor:
    """Row-wise Pearson correlation, shape (B,). Constant rows score 0."""
    a = a_BF.double() - a_BF.double().mean(-1, keepdim=True)
    b = b_BF.double() - b_BF.double().mean(-1, keepdim=True)
    scale = a.norm(dim=-1) * b.norm(dim=-1)
    return torch.where(scale > 1e-9, (a * b).sum(-1) / scale.clamp(min=1e-9), torch.zeros_like(scale))


def at_lag(measured_BF: Tensor, true_BF: Tensor, lag: int) -> tuple[Tensor, Tensor]:
    """Cut both tracks so that ``measured[t + lag]`` stands beside ``true[t]``."""
    frames = measured_BF.shape[-1]
    assert abs(lag) < frames - 1, f"lag {lag} leaves nothing of {frames} frames"
    if lag >= 0:
        return measured_BF[..., lag:], true_BF[..., : frames - lag]
    return measured_BF[..., :lag], true_BF[..., -lag:]


def choose_lag(measured_BF: Tensor, true_BF: Tensor, max_lag: int = MAX_LAG) -> int:
    """The one lag in -max_lag..max_lag with the highest correlation over all clips pooled.

    Every clip is centred first, so that a clip with a wide-open or a small mouth does not decide alone.
    """
    scores = {}
    for lag in range(-max_lag, max_lag + 1):
        measured, true = at_lag(measured_BF, true_BF, lag)
        measured = measured - measured.mean(-1, keepdim=True)
        true = true - true.mean(-1, keepdim=True)
        scores[lag] = pearson(measured.reshape(1, -1), true.reshape(1, -1)).item()
    return max(scores, key=lambda lag: (scores[lag], -abs(lag)))


def track_score(
    measured_BF: Tensor, true_BF: Tensor, *, lag: int | None = None, group_B: Tensor | None = None
) -> TrackScore:
    """Mean per-clip correlation at one lag; near-silent clips (a nearly constant true track) are left out.

    ``lag=None`` chooses the lag on these very clips. ``group_B`` marks clips with the same true track: they are no
    control for each other. Raises ``ValueError`` when no clip has a moving true track.
    """
    measured_BF, true_BF = measured_BF.double().cpu(), true_BF.double().cpu()
    moving = true_BF.std(-1) >= MIN_TRACK_DEVIATION * true_BF.max().clamp(min=1e-9)
    if not moving.any():
        raise ValueError("no clip has a moving true track: take clips with speech")
    measured, true = measured_BF[moving], true_BF[moving]
    lag = choose_lag(measured, true) if lag is None else lag
    measured, true = at_lag(measured, true, lag)
    count = len(true)
    group = torch.arange(count) if group_B is None else group_B.cpu()[moving]
    every = pearson(measured.repeat_interleave(count, 0), true.repeat(count, 1)).reshape(count, count)
    scores, others = every.diagonal(), every[group[:, None] != group]
    return TrackScore(
        correlation=scores.mean().item(),
        error=(scores.std().item() / math.sqrt(count)) if count > 1 else math.nan,
        lag=lag,
        control=others.mean().item() if len(others) else math.nan,
        clips=count,
        skipped=int((~moving).sum()),
    )


def sync_distances(video_BFD: Tensor, audio_BFD: Tensor, max_lag: int = 15) -> Tensor:
    """Mean Euclidean distance between picture windows and sound windows for every lag, shape (B, 2 * max_lag + 1).

    Column ``max_lag + k`` compares the picture at ``t + k`` with the sound at ``t``.
    """
    frames = video_BFD.shape[1]
    if frames <= max_lag:
        raise ValueError(f"{frames} windows cannot be shifted by {max_lag} frames: score clips of 49 frames or more")
    columns = []
    for lag in range(-max_lag, max_lag + 1):
        video = video_BFD[:, max(lag, 0) : frames + min(lag, 0)]
        audio = audio_BFD[:, max(-lag, 0) : frames - max(lag, 0)]
        columns.append((video - audio).norm(dim=-1).mean(-1))
    return torch.stack(columns, dim=-1)


def sync_score(distances_BL: Tensor) -> SyncScore:
    """Average SyncNet numbers of some clips; ``within_one`` is the share whose best lag is at most one frame off."""
    distances = distances_BL.double().cpu()
    low, best = distances.min(-1)
    lag = best - (distances.shape[-1] - 1) // 2
    return SyncScore(
        confidence=(distances.median(-1).values - low).mean().item(),
        distance=low.mean().item(),
        lag=lag.double().median().item(),
        within_one=(lag.abs() <= 1).double().mean().item(),
    )


def retrieval_accuracy(
    query_BD: Tensor, gallery_BD: Tensor, identity_B: Tensor, *, candidates: int = 10, rounds: int = 8, seed: int = 0
) -> float:
    """Share of queries whose nearest gallery entry (cosine) among ``candidates`` people is the right person.

    ``gallery_BD[i]`` shows the person of query i; the other candidates are drawn from people with another identity,
    ``rounds`` times. Raises ``ValueError`` when there are fewer than ``candidates`` people.
    """
    identity = identity_B.cpu()
    people = len(identity.unique())
    if people < candidates:
        raise ValueError(f"{people} people in the test set: identity among {candidates} needs at least {candidates}")
    similarity = torch.nn.functional.normalize(query_BD.float().cpu(), dim=-1) @ (
        torch.nn.functional.normalize(gallery_BD.float().cpu(), dim=-1).T
    )
    generator = torch.Generator().manual_seed(seed)
    right = 0
    for i in range(len(identity)):
        for _ in range(rounds):
            order = torch.randperm(len(identity), generator=generator)
            rivals: dict[int, int] = {}
            for j in order.tolist():
                if identity[j] != identity[i]:
                    rivals.setdefault(int(identity[j]), j)
                if len(rivals) == candidates - 1:
                    break
            right += int(similarity[i, list(rivals.values())].max() < similarity[i, i])
    return right / (len(identity) * rounds)


def closed_rate(opening_BF: Tensor, threshold: float = CLOSED_OPENING) -> float:
    """Share of frames whose measured mouth opening (0..1) is below ``threshold``."""
    return (opening_BF < threshold).double().mean().item()


def psnr(a_BFCHW: Tensor, b_BFCHW: Tensor) -> float:
    """Mean over clips of the peak signal-to-noise ratio in dB of two uint8 videos."""
    scores = []
    for a, b in zip(a_BFCHW, b_BFCHW, strict=True):
        error = (a.float() - b.float()).square().mean().clamp(min=1e-6)
        scores.append(10 * torch.log10(255**2 / error))
    return torch.stack(scores).mean().item()
