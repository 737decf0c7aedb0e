"""The judges as a task: batches are pure, losses fall, and the file that ships gives the same answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.data.procedural import ATTRIBUTES
from training.judges.config import JudgesConfig
from training.judges.panel import Panel
from training.judges.pool import Clips, Pool, Stills, mask_centres
from training.judges.tasks import JudgesTask
from training.task import Moment, Task

CONFIG = JudgesConfig(width=8, mouth_images=8, people=6, sync_clips=4, sync_windows=3)


def painted_pool(clips: int = 8, frames: int = 12, size: int = 64) -> Pool:
    """Flat faces whose bright mouth opens with a louder sound; the colour says who it is."""
    generator = torch.Generator().manual_seed(0)
    opening = torch.rand(clips, frames, generator=generator)
    identity = torch.arange(clips) % 4
    colour = torch.randint(60, 180, (4, 3, 1, 1), generator=generator)[identity]
    video = colour[:, None].expand(clips, frames, 3, size, size).to(torch.uint8).clone()
    mask = torch.zeros(clips, frames, size, size)
    for clip in range(clips):
        for frame in range(frames):
            half = 1 + int(6 * opening[clip, frame])
            mask[clip, frame, 40 - half : 40 + half, 24:40] = 1
    video[mask[:, :, None].expand_as(video) > 0] = 250
    moving = Clips(
        video_NFCHW=video,
        heat_NFHW=torch.nn.functional.avg_pool2d(mask, 4).half(),
        centre_NF2=mask_centres(mask),
        opening_NF=opening,
        width_NF=torch.full((clips, frames), 0.5),
        mel_NMT=opening.repeat_interleave(4, -1)[:, None].expand(-1, 40, -1) * 2 - 1,
    )
    stills = Stills(
        image_NCHW=video[:, 0],
        reference_NCHW=video[:, 1],
        identity_N=identity,
        attributes={name: identity % len(values) for name, values in ATTRIBUTES.items()},
    )
    return Pool(clips=moving, stills=stills)


@pytest.fixture(scope="module")
def task() -> JudgesTask:
    task = JudgesTask(CONFIG)
    task.pool = painted_pool()
    task.prepare(torch.device("cpu"), 0, 1)
    return task


def moment(step: int) -> Moment:
    return Moment(seed=0, step=step, index=step)


def test_it_is_a_task_whose_batches_depend_on_the_moment_only(task: JudgesTask) -> None:
    assert isinstance(task, Task)
    first, again, other = task.batch(moment(0)), task.batch(moment(0)), task.batch(moment(1))
    assert set(first) == set(CONFIG.judges)
    for name in first:
        assert all(torch.equal(a, b) for a, b in zip(first[name]["inputs"], again[name]["inputs"], strict=True))
        assert not torch.equal(first[name]["inputs"][0], other[name]["inputs"][0])


def test_every_judge_learns_alone_and_together(task: JudgesTask) -> None:
    torch.manual_seed(0)
    judges = task.build(torch.device("cpu"))
    optimiser = torch.optim.AdamW(judges.parameters(), lr=3e-3)
    history = []
    for step in range(12):
        loss, scalars = task.loss(judges, task.batch(moment(step)), moment(step))
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in judges.parameters())
        optimiser.step()
        assert not any(value.requires_grad for value in scalars.values())
        history.append(loss.item())
    assert sum(history[-3:]) < 0.85 * sum(history[:3])


def test_the_exported_file_gives_the_same_answers(task: JudgesTask, tmp_path: Path) -> None:
    torch.manual_seed(0)
    judges = task.build(torch.device("cpu")).eval()
    (tmp_path / "run").mkdir()
    task.export(judges.state_dict(), tmp_path / "run" / "judges.safetensors")
    panel = Panel.load(tmp_path)
    video = task.pool.clips.video_NFCHW[:2]
    mouths = panel.mouths(video)
    assert mouths.opening_BF.shape == (2, 12)
    assert mouths.centre_BF2.shape == (2, 12, 2)
    direct = judges.mouth(video.flatten(0, 1).float() / 255).opening_N.unflatten(0, (2, 12))
    assert torch.allclose(mouths.opening_BF, direct, atol=5e-3)
    assert torch.allclose(panel.identity(video).norm(dim=-1), torch.ones(2))
    assert set(panel.attributes(video)) == set(ATTRIBUTES)
    assert panel.sync(video, mouths.centre_BF2, torch.randn(2, 7680), max_lag=3).shape == (2, 7)


def test_judges_trained_apart_make_one_panel(tmp_path: Path) -> None:
    for judge in CONFIG.judges:
        alone = JudgesTask(replace(CONFIG, judges=(judge,)))
        alone.export(alone.build(torch.device("cpu")).state_dict(), tmp_path / f"judge-{judge}.safetensors")
    assert set(Panel.load(tmp_path).judges) == set(CONFIG.judges)
    (tmp_path / "judge-sync.safetensors").unlink()
    with pytest.raises(ValueError, match="no trained judge for sync"):
        Panel.load(tmp_path)


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(ValueError, match="holds no judge"):
        Panel.load(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "judge-odd.safetensors")
    with pytest.raises(ValueError, match="judge-odd.safetensors holds no judges"):
        Panel.load(tmp_path)
    with pytest.raises(ValueError, match="unknown judge 'nose'"):
        replace(CONFIG, judges=("nose",))
