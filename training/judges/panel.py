"""Trained judges applied to whole videos.

Loads judge files and measures; what the measurements mean is ``training.evaluation.metrics``. Videos are uint8 RGB.

Shape legend: B clips, F frames, K chosen frames, C channels, H height, W width, D embedding width, L lags, M mel bands.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from training.evaluation.metrics import sync_distances
from training.judges.config import JUDGE_NAMES
from training.judges.networks import METADATA_KEY, SYNC_FRAMES, Judges
from training.judges.windows import crop_windows, log_mel, mel_windows, smooth_centres

IMAGES_AT_ONCE = 1024
LOOKS = 8


@dataclass(frozen=True, kw_only=True)
class MouthTracks:
    """``opening_BF`` in 0..1 and ``centre_BF2`` (y, x) in pixels, smoothed over time."""

    opening_BF: Tensor
    centre_BF2: Tensor


class Panel:
    """All four judges on one device, in evaluation mode."""

    def __init__(self, judges: dict[str, nn.Module], device: torch.device | str) -> None:
        missing = [name for name in JUDGE_NAMES if name not in judges]
        if missing:
            raise ValueError(f"no trained judge for {', '.join(missing)}: train the recipe nano-judges first")
        self.device = torch.device(device)
        self.judges = {name: judge.to(self.device).eval().requires_grad_(False) for name, judge in judges.items()}

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Panel:
        """Read a judge file, or every ``judge*.safetensors`` of a folder and of its sub-folders.

        ``ValueError`` when there is none, when a judge is missing, or when a file holds something else.
        """
        files = [path] if path.is_file() else sorted(path.rglob("judge*.safetensors"))
        if not files:
            raise ValueError(f"{path} holds no judge*.safetensors: train the recipe nano-judges into it")
        judges: dict[str, nn.Module] = {}
        for file in files:
            judges |= _read(file)
        return cls(judges, device)

    def mouths(self, video_BFCHW: Tensor) -> MouthTracks:
        """Opening and place of the mouth in every frame."""
        height, width = video_BFCHW.shape[-2:]

        def read(images: Tensor) -> Tensor:
            reading = self.judges["mouth"](images)
            return torch.cat([reading.opening_N[:, None], reading.centre_N2(height, width)], dim=1)

        read_BF3 = self._each(read, video_BFCHW.flatten(0, 1)).unflatten(0, video_BFCHW.shape[:2])
        return MouthTracks(opening_BF=read_BF3[..., 0], centre_BF2=smooth_centres(read_BF3[..., 1:]))

    def identity(self, images_BKCHW: Tensor) -> Tensor:
        """One unit vector per clip from K images of it (at most eight, evenly spread): (B, D)."""
        return self._each(lambda x: self.judges["identity"](x)[0], look(images_BKCHW))

    def attributes(self, video_BFCHW: Tensor) -> dict[str, Tensor]:
        """The most likely value of every attribute, (B,) each."""
        names = list(self.judges["attributes"].heads)

        def read(x: Tensor) -> Tensor:
            logits = self.judges["attributes"](x)
            return torch.stack([logits[name].argmax(-1) for name in names], dim=1)

        values = self._each(read, look(video_BFCHW))
        return {name: values[:, i] for i, name in enumerate(names)}

    def sync(self, video_BFCHW: Tensor, centre_BF2: Tensor, audio_BS: Tensor, max_lag: int = 15) -> Tensor:
        """Mean distance of picture and sound for every lag, (B, 2 * max_lag + 1); see ``metrics.sync_distances``."""
        frames = video_BFCHW.shape[1]
        middle_K = torch.arange(SYNC_FRAMES // 2, frames - SYNC_FRAMES // 2, device=self.device)
        mel_BMT = log_mel(audio_BS.to(self.device), frames)
        rows = []
        for clip in range(len(video_BFCHW)):
            video, centre = video_BFCHW[clip : clip + 1].to(self.device), centre_BF2[clip : clip + 1].to(self.device)
            crops = crop_windows(video, torch.zeros(1, dtype=torch.long, device=self.device), middle_K[None],
                                 centre[:, middle_K])  # fmt: skip
            windows = mel_windows(mel_BMT[clip : clip + 1], middle_K[None])
            with torch.no_grad():
                picture, sound = self.judges["sync"](crops[0], windows[0])
            rows.append(sync_distances(picture[None], sound[None], max_lag))
        return torch.cat(rows)

    def _each(self, read: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Apply ``read`` to pieces of uint8 images, scaled to 0..1, on the judges' device."""
        per_row = images[0].numel() // images[0].shape[-1] // images[0].shape[-2] // 3
        piece = max(1, IMAGES_AT_ONCE // per_row)
        with torch.no_grad():
            return torch.cat([read(part.to(self.device).float() / 255) for part in images.split(piece)])


def look(images_BFCHW: Tensor) -> Tensor:
    """At most eight images of every clip, evenly spread."""
    count = images_BFCHW.shape[1]
    if count <= LOOKS:
        return images_BFCHW
    return images_BFCHW[:, torch.linspace(0, count - 1, LOOKS).round().long().to(images_BFCHW.device)]


def _read(file: Path) -> dict[str, nn.Module]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as stored:
        recipe = (stored.metadata() or {}).get(METADATA_KEY)
        if recipe is None:
            raise ValueError(f"{file} holds no judges: give a file written by the recipe nano-judges")
        settings = json.loads(recipe)
        judges = Judges(tuple(settings["judges"]), settings["attribute_sizes"], settings["width"])
        judges.load_state_dict({name: stored.get_tensor(name).float() for name in stored.keys()})  # noqa: SIM118
    return dict(judges.named_children())
