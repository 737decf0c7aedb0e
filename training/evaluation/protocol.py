"""What is generated, from what, and what is measured on it.

Every mode runs on the same held-out clips. Where identity is measured, the caption says nothing of the person; where
text is measured, the caption names every attribute. The rows "none" (no condition at all) and "silence" (sound of
zeros) show what the conditions are worth. True frames and their reconstructions are judged like generated ones.

Shape legend: B clips, F frames, C channels, H height, W width, S audio samples.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from training.evaluation import metrics
from training.evaluation.generation import DEFAULT_SCALES, Generator, Order, Scales
from training.evaluation.testset import HeldOutClips
from training.judges.panel import Panel

logger = logging.getLogger(__name__)

CANDIDATES = 10


@dataclass(frozen=True, kw_only=True)
class Run:
    """One row of the table. ``sound`` is what the model hears; tracks are compared with the clip's own speech."""

    name: str
    caption: Literal["full", "anonymous", "empty"]
    image: bool = False
    sound: Literal["speech", "silence", "none"] = "none"


TIA = Run(name="TIA", caption="anonymous", image=True, sound="speech")
RUNS = (
    Run(name="T", caption="full"),
    Run(name="TI", caption="anonymous", image=True),
    Run(name="TA", caption="full", sound="speech"),
    TIA,
    Run(name="TIA full caption", caption="full", image=True, sound="speech"),
    Run(name="TIA silence", caption="anonymous", image=True, sound="silence"),
    Run(name="none", caption="empty"),
)
# One lag serves every generated row; it is chosen where speech and picture should agree.
LAG_RUNS = ("TA", "TIA")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the judges read from one set of videos."""

    opening_BF: Tensor
    distances_BL: Tensor
    identity_BD: Tensor
    attributes: dict[str, Tensor]


def order_for(run: Run, clips: HeldOutClips, scales: Scales = DEFAULT_SCALES) -> Order:
    """What the model is asked to generate for ``run``."""
    prompts = {"full": clips.captions, "anonymous": clips.captions_anonymous, "empty": [""] * len(clips)}[run.caption]
    audio = {"speech": clips.audio_BS, "silence": torch.zeros_like(clips.audio_BS), "none": None}[run.sound]
    height, width = clips.size
    return Order(
        prompts=prompts,
        height=height,
        width=width,
        num_frames=clips.num_frames,
        references_NCHW=clips.reference_BCHW if run.image else None,
        audio_NS=audio,
        scales=scales,
    )


def measure(panel: Panel, video_BFCHW: Tensor, audio_BS: Tensor) -> Measured:
    """Let every judge look at some videos; ``audio`` is the sound they are compared with."""
    mouths = panel.mouths(video_BFCHW)
    return Measured(
        opening_BF=mouths.opening_BF,
        distances_BL=panel.sync(video_BFCHW, mouths.centre_BF2, audio_BS),
        identity_BD=panel.identity(video_BFCHW),
        attributes=panel.attributes(video_BFCHW),
    )


def score(seen: Measured, clips: HeldOutClips, gallery_BD: Tensor, *, lag: int | None = None) -> dict[str, Any]:
    """All scores of one row, JSON-ready."""
    speaks = clips.opening_BF.std(-1).cpu() >= metrics.MIN_TRACK_DEVIATION
    return {
        "mouth": asdict(metrics.track_score(seen.opening_BF, clips.opening_BF, lag=lag)),
        "sync": asdict(metrics.sync_score(seen.distances_BL.cpu()[speaks])),
        "identity": metrics.retrieval_accuracy(seen.identity_BD, gallery_BD, clips.identity_B, candidates=CANDIDATES),
        "text": attribute_accuracy(seen.attributes, clips),
        "closed": metrics.closed_rate(seen.opening_BF),
        "mean_opening": seen.opening_BF.mean().item(),
    }


def attribute_accuracy(predicted: dict[str, Tensor], clips: HeldOutClips) -> dict[str, float]:
    """Accuracy per attribute over the clips whose full caption states it, and their mean under ``"mean"``."""
    scores = {}
    for name, target in clips.attributes.items():
        stated = clips.stated[name].cpu()
        if stated.any():
            scores[name] = (predicted[name].cpu() == target.cpu())[stated].double().mean().item()
    return scores | {"mean": sum(scores.values()) / len(scores)}


def evaluate(
    generate: Generator,
    panel: Panel,
    clips: HeldOutClips,
    *,
    runs: tuple[Run, ...] = RUNS,
    scales: Scales = DEFAULT_SCALES,
    reconstruct: Callable[[Tensor], Tensor] | None = None,
    keep: Callable[[str, Tensor], None] = lambda name, video: None,
) -> dict[str, dict[str, Any]]:
    """Row name -> scores: true frames, reconstructions (when ``reconstruct`` is given), then every run.

    ``keep(name, video)`` is shown every video before it is dropped.
    """
    gallery_BD = panel.identity(clips.portrait_BCHW[:, None])
    rows = {"true frames": score(measure(panel, clips.video_BFCHW, clips.audio_BS), clips, gallery_BD)}
    keep("true frames", clips.video_BFCHW)
    if reconstruct is not None:
        copies = reconstruct(clips.video_BFCHW)
        rows["reconstructions"] = score(measure(panel, copies, clips.audio_BS), clips, gallery_BD)
        rows["reconstructions"]["psnr"] = metrics.psnr(copies, clips.video_BFCHW)
        keep("reconstructions", copies)
    seen = {}
    for run in runs:
        start = time.perf_counter()
        video = generate(order_for(run, clips, scales))
        if video.is_cuda:
            torch.cuda.synchronize()
        logger.info("%s: %d clips generated in %.1f s", run.name, len(video), time.perf_counter() - start)
        keep(run.name, video)
        seen[run.name] = measure(panel, video, clips.audio_BS)
    lag = common_lag(seen, clips)
    return rows | {name: score(one, clips, gallery_BD, lag=lag) for name, one in seen.items()}


def common_lag(seen: dict[str, Measured], clips: HeldOutClips) -> int | None:
    """The lag of all generated rows, chosen on the rows that hear speech; None when there is no such row."""
    hearing = [seen[name].opening_BF.cpu() for name in LAG_RUNS if name in seen]
    if not hearing:
        return None
    return metrics.choose_lag(torch.cat(hearing), clips.opening_BF.cpu().repeat(len(hearing), 1))
