"""Checkpoints: whole or absent, pruned, found again, and refused when they belong to another run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training.toy import ToyConfig, ToyTask, toy_settings
from training import checkpoint
from training.config import OptimiserConfig
from training.parallel import join
from training.trainer import Trainer

KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
from tests.training.toy import ToyTask, toy_settings
from training import checkpoint
from training.parallel import join
from training.trainer import Trainer

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

trainer = Trainer(ToyTask(), toy_settings(), Path(sys.argv[1]), join("cpu"))
trainer.train_step()
trainer.save()
trainer.train_step()
checkpoint.averaged_weights = die
trainer.save()
"""


def trainer_in(folder: Path, *, width: int = 8, resume: bool = False, init=None, **settings) -> Trainer:
    task = ToyTask(ToyConfig(width=width))
    return Trainer(task, toy_settings(**settings), folder, join("cpu"), resume=resume, init=init)


def test_death_while_saving_leaves_the_previous_checkpoint(tmp_path):
    result = subprocess.run([sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path)], timeout=120)
    assert result.returncode == -9
    assert list(tmp_path.glob(".partial-*"))
    assert_resumes_at_step_1(tmp_path)


def test_a_checkpoint_counts_only_once_it_is_named(tmp_path, monkeypatch):
    trainer = trainer_in(tmp_path)
    trainer.train_step()
    trainer.save()
    trainer.train_step()
    monkeypatch.setattr(checkpoint, "_point_latest", lambda *_: sys.exit())
    with pytest.raises(SystemExit):
        trainer.save()
    monkeypatch.undo()
    assert_resumes_at_step_1(tmp_path)


def assert_resumes_at_step_1(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path).name == "step-00000001"
    trainer = trainer_in(tmp_path, resume=True, steps=3)
    assert trainer.step == 1
    trainer.run()
    assert checkpoint.latest(tmp_path).name == "step-00000003"
    assert not list(tmp_path.glob(".partial-*"))


def test_only_the_last_checkpoints_are_kept(tmp_path):
    trainer_in(tmp_path, checkpoint_every=2, keep_checkpoints=2).run()
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == ["step-00000006", "step-00000008"]


def test_resuming_another_network_names_what_differs(tmp_path):
    trainer_in(tmp_path).run()

    class Wider(ToyTask):
        def build(self, device):
            model = super().build(device)
            model.extra = torch.nn.Linear(2, 2)
            return model

    with pytest.raises(ValueError, match="extra"):
        Trainer(Wider(), toy_settings(), tmp_path, join("cpu"), resume=True)


def test_the_next_stage_starts_from_the_averaged_weights(tmp_path):
    first = trainer_in(tmp_path / "a")
    first.run()
    second = trainer_in(tmp_path / "b", init=tmp_path / "a")
    expected = first.ema.state_dict()["head.weight"]
    assert torch.equal(second.model.head.weight, expected)
    assert torch.equal(second.ema.state_dict()["head.weight"], expected)


def test_missing_weights_say_what_to_give(tmp_path):
    with pytest.raises(ValueError, match="give a run folder"):
        checkpoint.find_weights(tmp_path / "nothing")
    foreign = tmp_path / "weights.safetensors"
    foreign.write_bytes(b"")
    with pytest.raises(ValueError, match="empty"):
        checkpoint.read_weights(foreign)


def test_a_pointer_to_nowhere_is_reported(tmp_path):
    (tmp_path / "latest").write_text("step-00000009\n")
    with pytest.raises(ValueError, match="step-00000009"):
        checkpoint.latest(tmp_path)
    (tmp_path / "latest").write_text("\n")
    with pytest.raises(ValueError, match="names nothing, which is not there"):
        checkpoint.latest(tmp_path)


def test_a_run_taken_back_keeps_what_it_writes(tmp_path):
    trainer_in(tmp_path, checkpoint_every=2, keep_checkpoints=5).run()
    (tmp_path / "latest").write_text("step-00000002")
    trainer_in(tmp_path, steps=3, keep_checkpoints=1, resume=True).run()
    assert checkpoint.latest(tmp_path).name == "step-00000003"
    assert trainer_in(tmp_path, resume=True).step == 3


@pytest.mark.parametrize("name", ["state.json", "tensors/.metadata", "tensors/__0_0.distcp", "random-0.pt"])
def test_a_damaged_checkpoint_is_named(tmp_path, name):
    trainer_in(tmp_path).run()
    damaged = checkpoint.latest(tmp_path) / name
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 3])
    with pytest.raises(ValueError, match="step-00000008 cannot be read .*write the name of another step into"):
        trainer_in(tmp_path, resume=True)


def test_the_state_of_another_optimiser_is_named(tmp_path):
    muon = OptimiserConfig(lr=1e-2, warmup_steps=2, name="muon")
    trainer_in(tmp_path, optimiser=muon).run()
    assert trainer_in(tmp_path, optimiser=muon, resume=True).step == 8
    with pytest.raises(ValueError, match="has exp_avg of .*, this optimiser exp_avg and exp_avg_sq and step"):
        trainer_in(tmp_path, resume=True)
    trainer_in(tmp_path / "adamw").run()
    with pytest.raises(ValueError, match="has exp_avg and exp_avg_sq and step of .*, this optimiser exp_avg: resume"):
        trainer_in(tmp_path / "adamw", optimiser=muon, resume=True)


def test_a_network_of_another_width_is_another_run(tmp_path):
    trainer_in(tmp_path).run()
    with pytest.raises(ValueError, match=r"holds another run: .* tensors differ \(blocks.0.0.bias"):
        trainer_in(tmp_path, width=4, resume=True)
