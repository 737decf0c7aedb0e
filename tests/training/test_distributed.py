"""Two processes do what one does with the same global batch; sharded checkpoints resume, whole or split.

On the CPU over gloo, and over NCCL where there are two GPUs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.training.tiny import tiny_model, tiny_task, write_frozen
from tests.training.toy import ToyTask, toy_settings
from training import checkpoint
from training.config import ParallelConfig
from training.parallel import World, exit_process, join
from training.tasks.dit import DiTTask
from training.trainer import Trainer

TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two NVIDIA GPUs")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, TWO_GPUS])]


def settings(strategy: str, *, accumulate: int, steps: int):
    parallel = ParallelConfig(strategy=strategy)
    return toy_settings(parallel=parallel, accumulate=accumulate, steps=steps, checkpoint_every=3, log_every=1)


def dit_settings(*, accumulate: int):
    parallel = ParallelConfig(strategy="fsdp")
    return toy_settings(parallel=parallel, accumulate=accumulate, steps=3, log_every=1, checkpoint_activations=True)


def dit_task(root: str | Path) -> DiTTask:
    return DiTTask(tiny_task(Path(root) / "weights", batch_size=1))


def as_one_of_two(rank: int, port: int, device: str) -> World:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    torch.set_num_threads(1)
    return join(device)


def train_toys(rank: int, port: int, root: str, device: str) -> None:
    """One of two processes: both strategies from the same weights, interrupted and resumed."""
    world, start = as_one_of_two(rank, port, device), Path(root) / "start"
    for strategy in ("replicate", "fsdp"):
        folder = Path(root) / strategy
        Trainer(ToyTask(), settings(strategy, accumulate=1, steps=3), folder, world, init=start).run()
        Trainer(ToyTask(), settings(strategy, accumulate=1, steps=6), folder, world, resume=True).run()
    dist.destroy_process_group()
    exit_process(0)


def train_dit(rank: int, port: int, root: str, device: str) -> None:
    """One of two processes: the DiT, sharded."""
    world, start = as_one_of_two(rank, port, device), Path(root) / "start"
    Trainer(dit_task(root), dit_settings(accumulate=1), Path(root) / "sharded", world, init=start).run()
    dist.destroy_process_group()
    exit_process(0)


def in_two_processes(work: Callable[[int, int, str, str], None], root: Path, device: str) -> None:
    """As torchrun does it: the store that processes meet at is the caller's, so nobody has to find a free port."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    mp.spawn(work, args=(store.port, str(root), device), nprocs=2)


@pytest.fixture(scope="module", params=DEVICES)
def device(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def runs(tmp_path_factory, device) -> Path:
    root = tmp_path_factory.mktemp("runs")
    alone = join(device)
    Trainer(ToyTask(seed=5), settings("replicate", accumulate=1, steps=1), root / "start", alone).run()
    config = settings("replicate", accumulate=2, steps=6)
    Trainer(ToyTask(), config, root / "alone", alone, init=root / "start").run()
    in_two_processes(train_toys, root, device)
    return root


def losses_of(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines]


@pytest.mark.parametrize("strategy", ["replicate", "fsdp"])
def test_two_processes_equal_one_with_the_same_global_batch(runs, strategy):
    assert losses_of(runs / strategy) == pytest.approx(losses_of(runs / "alone"), rel=1e-5)
    expected = checkpoint.read_weights(checkpoint.find_weights(runs / "alone"))
    actual = checkpoint.read_weights(checkpoint.find_weights(runs / strategy))
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-6)


def test_a_sharded_checkpoint_resumes_in_one_process(runs, device):
    trainer = Trainer(ToyTask(), settings("fsdp", accumulate=2, steps=7), runs / "fsdp", join(device), resume=True)
    assert trainer.step == 6
    averaged = checkpoint.read_weights(checkpoint.find_weights(runs / "fsdp"))
    assert torch.equal(trainer.ema.state_dict()["head.weight"].cpu(), averaged["head.weight"])
    trainer.train_step()
    assert trainer.optimiser.state[trainer.model.head.weight]["step"].item() == 7


@pytest.mark.slow
def test_a_sharded_dit_equals_a_whole_one(tmp_path, device):
    """Built on the meta device, filled from the first process, activations recomputed, the pool encoded by both."""
    (tmp_path / "weights").mkdir()
    write_frozen(tmp_path / "weights", tiny_model())
    base = DiTTask(tiny_task(tmp_path / "weights", stage="base"))
    Trainer(base, toy_settings(steps=1), tmp_path / "start", join(device)).run()
    whole = Trainer(
        dit_task(tmp_path), dit_settings(accumulate=2), tmp_path / "whole", join(device), init=tmp_path / "start"
    )
    whole.run()
    in_two_processes(train_dit, tmp_path, device)
    assert losses_of(tmp_path / "sharded") == pytest.approx(losses_of(tmp_path / "whole"), rel=1e-4)


def test_only_a_process_that_shares_its_run_skips_the_end_of_the_interpreter(monkeypatch):
    def end_at_once(code: int):
        raise InterruptedError(code)

    monkeypatch.setattr(os, "_exit", end_at_once)
    monkeypatch.setattr("logging.shutdown", lambda: None)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(SystemExit, match="3"):
        exit_process(3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InterruptedError, match="3"):
        exit_process(3)
