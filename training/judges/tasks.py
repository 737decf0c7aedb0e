"""The judges as one training task.

All judges learn from one rendered pool and in one run: each is too small to fill a GPU, so training them together costs
little more than the largest alone. Knows nothing of steps, optimisers or checkpoints.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from training.judges.config import JudgesConfig
from training.judges.lessons import AttributeLesson, Batch, IdentityLesson, Lesson, MouthLesson, SyncLesson
from training.judges.networks import METADATA_KEY, Judges
from training.judges.pool import Pool, rendered_pool
from training.task import Moment


class JudgesTask:
    """Train the judges named in the configuration; their losses are added, their weights are not shared."""

    def __init__(self, config: JudgesConfig, seed: int = 0) -> None:
        self.config = config
        self.pool: Pool | None = None
        lessons: dict[str, Lesson] = {
            "mouth": MouthLesson(images=config.mouth_images),
            "identity": IdentityLesson(people=config.people),
            "attributes": AttributeLesson(people=config.people),
            "sync": SyncLesson(clips=config.sync_clips, windows=config.sync_windows),
        }
        self.lessons = {name: lessons[name] for name in config.judges}

    def prepare(self, device: torch.device, rank: int, world_size: int) -> None:
        """Render the pool, unless ``pool`` was set before."""
        self.pool = self.pool or rendered_pool(self.config.pool, device)

    def build(self, device: torch.device) -> nn.Module:
        return Judges(self.config.judges, attribute_sizes(), self.config.width).to(device)

    def trainable(self, name: str) -> bool:
        return True

    def batch(self, moment: Moment) -> dict[str, Batch]:
        assert self.pool is not None, "prepare() comes before batch()"
        device = self.pool.clips.video_NFCHW.device
        return {name: lesson.batch(self.pool, moment.generator(device, name)) for name, lesson in self.lessons.items()}

    def loss(self, model: nn.Module, batch: dict[str, Batch], moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        answers = model({name: one["inputs"] for name, one in batch.items()})
        losses, scalars = [], {}
        for name, lesson in self.lessons.items():
            loss, logged = lesson.loss(answers[name], batch[name])
            losses.append(loss)
            scalars |= {key: value.detach() for key, value in logged.items()}
        return torch.stack(losses).sum(), scalars

    def export(self, state_dict: dict[str, Tensor], path: Path) -> None:
        """Write float16 safetensors with names like ``mouth.heat.weight``, and how to rebuild the networks."""
        from safetensors.torch import save_file

        recipe = {"judges": self.config.judges, "width": self.config.width, "attribute_sizes": attribute_sizes()}
        tensors = {name: value.half().contiguous() for name, value in state_dict.items()}
        save_file(tensors, str(path), metadata={METADATA_KEY: json.dumps(recipe)})


def attribute_sizes() -> dict[str, int]:
    """Number of values of every attribute of the procedural people."""
    from training.data.procedural import ATTRIBUTES

    return {name: len(values) for name, values in ATTRIBUTES.items()}
