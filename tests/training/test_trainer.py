"""The loop: resuming to the bit, stopping, learning rates, averages, weight decay groups."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch

from tests.training.toy import ToyConfig, ToyTask, toy_settings
from training import optimise
from training.clock import Clock
from training.config import EMAConfig, OptimiserConfig
from training.errors import RunError
from training.parallel import World, join
from training.task import Moment
from training.trainer import Trainer


def run(folder, *, task=None, resume=False, **settings) -> Trainer:
    trainer = Trainer(task or ToyTask(), toy_settings(**settings), folder, join("cpu"), resume=resume)
    trainer.run()
    return trainer


def assert_same_state(a: Trainer, b: Trainer) -> None:
    left, right = a.run_state.tensors(), b.run_state.tensors()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_resume_continues_to_the_bit(tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", steps=4)
    torch.manual_seed(999)  # whatever happened in between must not matter
    assert_same_state(whole, run(tmp_path / "parts", resume=True))


def test_resume_restores_the_random_state(tmp_path):
    run(tmp_path, steps=4)
    expected = torch.rand(3)
    torch.manual_seed(1)
    Trainer(ToyTask(), toy_settings(), tmp_path, join("cpu"), resume=True)
    assert torch.equal(torch.rand(3), expected)


def test_samples_do_not_change_what_a_resumed_run_draws(tmp_path):
    class Drawing(ToyTask):
        def samples(self, model, step):
            torch.rand(3)
            return super().samples(model, step)

        def loss(self, model, batch, moment):
            return super().loss(model, batch + 0.01 * torch.rand(batch.shape), moment)

    whole = run(tmp_path / "whole", task=Drawing(), sample_every=4)
    run(tmp_path / "parts", task=Drawing(), sample_every=4, steps=4)
    assert_same_state(whole, run(tmp_path / "parts", task=Drawing(), sample_every=4, resume=True))


def test_training_learns_and_logs(tmp_path):
    run(tmp_path, steps=200, log_every=50, checkpoint_every=200)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 100, 150, 200]
    assert lines[-1]["loss"] < 0.3 * lines[0]["loss"]
    assert {"error", "gradient_norm", "lr", "ms_per_step"} <= lines[0].keys()


def test_accumulated_micro_batches_are_distinct_and_numbered_through(tmp_path):
    task = ToyTask()
    run(tmp_path, task=task, steps=3, accumulate=2)
    assert task.seen == list(range(6))


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    run(tmp_path, steps=2)
    with pytest.raises(ValueError, match="--resume"):
        run(tmp_path, steps=2)


def test_weights_and_folder_are_looked_at_before_data_is_prepared(tmp_path, monkeypatch):
    run(tmp_path / "first", steps=2)
    monkeypatch.setattr(ToyTask, "prepare", lambda *_: pytest.fail("prepared in vain"))
    with pytest.raises(ValueError, match="no weights at"):
        Trainer(ToyTask(), toy_settings(), tmp_path / "run", join("cpu"), init=tmp_path / "nowhere")
    wider = ToyTask(ToyConfig(width=16))
    with pytest.raises(
        ValueError, match=r"ema.safetensors holds another network: \d+ tensors differ \(blocks.0.0.bias"
    ):
        Trainer(wider, toy_settings(), tmp_path / "run", join("cpu"), init=tmp_path / "first")
    with pytest.raises(ValueError, match=r"step-00000002 holds another run: .* resume with its recipe"):
        Trainer(wider, toy_settings(), tmp_path / "first", join("cpu"), resume=True)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be made"):
        Trainer(ToyTask(), toy_settings(), tmp_path / "file" / "run", join("cpu"))


def test_devices_that_cannot_be_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        join("gpu")
    with pytest.raises(RunError, match="no usable NVIDIA GPU"):
        join("cuda")


def test_frozen_parameters_stay_and_are_exported(tmp_path):
    from safetensors.torch import load_file

    trainer = run(tmp_path)
    start = ToyTask().build(torch.device("cpu"))
    assert torch.equal(trainer.model.frozen.weight, start.frozen.weight)
    exported = load_file(tmp_path / "model.safetensors")
    assert exported.keys() == start.state_dict().keys()
    assert exported["head.weight"].dtype == torch.float16


def test_a_loss_that_is_no_number_ends_the_run_before_the_checkpoint(tmp_path):
    with pytest.raises(RunError, match="not finite at step 5"):
        run(tmp_path, task=ToyTask(ToyConfig(nan_at=5)), log_every=100)
    assert (tmp_path / "latest").read_text().strip() == "step-00000004"


def test_a_gradient_that_is_no_number_ends_the_run_too(tmp_path):
    class Diverging(ToyTask):
        def loss(self, model, batch, moment):
            loss, scalars = super().loss(model, batch, moment)
            spoiled = (model.head.weight - model.head.weight.detach()).abs().sum().sqrt()  # 0, of infinite slope
            return (loss + spoiled if moment.step == 3 else loss), scalars

    with pytest.raises(RunError, match="gradient was not finite at step 3"):
        run(tmp_path, task=Diverging(), log_every=100, checkpoint_every=2)
    assert (tmp_path / "latest").read_text().strip() == "step-00000002"


def test_time_budget_ends_the_run(tmp_path):
    trainer = run(tmp_path, steps=10**6, max_seconds=0.2, log_every=5, checkpoint_every=10**6)
    assert trainer.progress == 1.0
    assert 0 < trainer.step < 10**6
    assert (tmp_path / "model.safetensors").is_file()


def test_a_stop_signal_leaves_a_checkpoint(tmp_path):
    class Interrupting(ToyTask):
        def batch(self, moment: Moment):
            if moment.step == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return super().batch(moment)

    trainer = run(tmp_path, task=Interrupting(), steps=1000, checkpoint_every=1000, log_every=1000)
    assert trainer.step == 4
    assert trainer.stopped
    assert (tmp_path / "latest").read_text().strip() == "step-00000004"
    assert not (tmp_path / "model.safetensors").exists()


def test_a_signal_in_the_last_step_comes_too_late_to_stop_anything(tmp_path):
    class Interrupting(ToyTask):
        def batch(self, moment: Moment):
            if moment.step == 7:
                os.kill(os.getpid(), signal.SIGINT)
            return super().batch(moment)

    assert not run(tmp_path, task=Interrupting()).stopped
    assert (tmp_path / "model.safetensors").is_file()


def test_several_processes_agree_every_few_seconds(monkeypatch):
    """Steps of a second, of which the first takes ten: signs of a stop are seen by all in at most five."""
    now, agreements = [0.0], []
    world = World(rank=0, size=2, device=torch.device("cpu"))

    def reduce(values, op):
        agreements.append(step)
        return values

    monkeypatch.setattr(World, "reduce", lambda self, values, op: reduce(values, op))
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    step, clock = 0, Clock(None, world)
    clock.start(0.0, 0)
    for step in range(1, 31):
        now[0] += 10.0 if step == 1 else 1.0
        clock.agree(step)
    assert agreements == [0, 1, 2, 4, 8, 13, 18, 23, 28]


def test_a_checkpoint_is_written_before_samples_that_may_fail(tmp_path):
    class Failing(ToyTask):
        def samples(self, model, step):
            raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        run(tmp_path, task=Failing(), sample_every=4)
    assert (tmp_path / "latest").read_text().strip() == "step-00000004"


def test_samples_come_from_the_averaged_weights(tmp_path):
    seen = []

    class Watching(ToyTask):
        def samples(self, model, step):
            seen.append(model.head.weight.detach().clone())
            return super().samples(model, step)

    trainer = run(tmp_path, task=Watching(), steps=4, sample_every=4)
    average = trainer.ema.state_dict()["head.weight"]
    assert torch.equal(seen[0], average)
    assert not torch.equal(trainer.model.head.weight, average)
    assert (tmp_path / "samples" / "grey-00000004.gif").is_file()


def test_average_follows_its_formula(tmp_path):
    trainer = Trainer(ToyTask(), toy_settings(ema=EMAConfig(decay=0.5, warmup=10)), tmp_path, join("cpu"))
    expected = trainer.model.head.weight.detach().double().clone()
    for step in range(5):
        trainer.train_step()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * trainer.model.head.weight.detach().double()
    torch.testing.assert_close(trainer.ema.state_dict()["head.weight"].double(), expected, rtol=1e-5, atol=1e-7)


def test_learning_rate_warms_up_and_falls():
    config = OptimiserConfig(lr=1.0, warmup_steps=4, schedule="cosine", final_lr=0.1)
    assert optimise.learning_rate(config, 0, 0.0) == pytest.approx(0.25)
    assert optimise.learning_rate(config, 10, 0.5) == pytest.approx(0.55)
    assert optimise.learning_rate(config, 10, 1.0) == pytest.approx(0.1)
    constant = OptimiserConfig(lr=2.0, warmup_steps=0)
    assert optimise.learning_rate(constant, 0, 0.9) == 2.0


def test_weight_decay_spares_norms_and_biases():
    named = ToyTask().build(torch.device("cpu")).named_parameters()
    optimiser = optimise.make_optimiser(named, OptimiserConfig(lr=1.0, weight_decay=0.3), torch.device("cpu"))
    for group in optimiser.param_groups:
        assert all((p.ndim >= 2) == (group["weight_decay"] == 0.3) for p in group["params"])


def test_moments_seed_independent_streams():
    a = Moment(seed=1, step=0, index=0)
    same = torch.rand(2, generator=a.generator("cpu", "x"))
    assert torch.equal(same, torch.rand(2, generator=a.generator("cpu", "x")))
    for other in (Moment(seed=2, step=0, index=0), Moment(seed=1, step=0, index=1)):
        assert not torch.equal(same, torch.rand(2, generator=other.generator("cpu", "x")))
    assert not torch.equal(same, torch.rand(2, generator=a.generator("cpu", "y")))


def test_activation_checkpointing_changes_no_gradient(tmp_path):
    assert_same_state(run(tmp_path / "a"), run(tmp_path / "b", checkpoint_activations=True))
