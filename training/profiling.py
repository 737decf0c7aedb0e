"""Where the time of a training step goes: ``--profile-steps``.

First whole steps as training runs them, then the same steps with the device waited for between their parts, which
shows shares but adds up to more.
"""

from __future__ import annotations

import time
from collections import defaultdict

import torch

from training import optimise, parallel
from training.trainer import Trainer

_WARM_UP = 5


def profile_steps(trainer: Trainer, steps: int) -> None:
    """Print milliseconds per step and per part, samples of the device's memory; the model is trained meanwhile."""
    for _ in range(_WARM_UP):
        trainer.train_step()
    _wait(trainer)
    start = time.perf_counter()
    for _ in range(steps):
        trainer.train_step()
    launched = time.perf_counter() - start
    _wait(trainer)
    whole = time.perf_counter() - start
    parts: dict[str, float] = defaultdict(float)
    for _ in range(steps):
        _one_step(trainer, parts)
    if trainer.world.is_main:
        print(f"step {1000 * whole / steps:8.2f} ms   launched by the host in {1000 * launched / steps:.2f} ms")
        for name, seconds in parts.items():
            print(f"  {name:10} {1000 * seconds / steps:8.2f} ms")
        if trainer.world.device.type == "cuda":
            print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


def _one_step(trainer: Trainer, parts: dict[str, float]) -> None:
    """One optimiser step of one micro-batch, waiting after every part."""
    config, device = trainer.config, trainer.world.device

    def timed(name, function, *arguments):
        start = time.perf_counter()
        result = function(*arguments)
        _wait(trainer)
        parts[name] += time.perf_counter() - start
        return result

    moment = trainer.moment()
    batch = timed("batch", trainer.task.batch, moment)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        loss, _ = timed("forward", trainer.task.loss, trainer.model, batch, moment)
    timed("backward", loss.backward)
    if config.parallel.strategy == "replicate":
        timed("average", parallel.average_gradients, trainer.parameters, trainer.world)
    timed("clip", optimise.clip_gradients, trainer.parameters, config.optimiser.clip_norm)
    timed("optimiser", trainer.optimiser.step)
    timed("ema", trainer.ema.update, trainer.step)
    trainer.optimiser.zero_grad(set_to_none=True)
    trainer.step += 1


def _wait(trainer: Trainer) -> None:
    if trainer.world.device.type == "cuda":
        torch.cuda.synchronize(trainer.world.device)
