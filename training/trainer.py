"""The training loop, for any task: gradients, averages, checkpoints, logs.

Knows no model, no data and no loss: a ``Task`` brings them. The host waits for the device at log steps, where it
reads what it has to report, and with several processes every few seconds, when they agree. A loss or a gradient that is
not a number is noticed at log steps too, and before any checkpoint.

A run that ends by steps resumes to the bit: batch and noise are pure functions of the moment, and the rest is in the
checkpoint. A run that ends by ``max_seconds`` depends on the clock (learning rate and curriculum follow the larger of
the two shares spent), so its continuation is equivalent but not identical.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from training import checkpoint, optimise, parallel
from training.clock import Clock
from training.config import TrainerConfig
from training.ema import EMA, local
from training.logbook import Logbook
from training.parallel import World
from training.task import Adopting, Moment, Sampling, Task, derive_seed
from training.totals import Totals

logger = logging.getLogger(__name__)


class Trainer:
    """One run of one task in one folder.

    Args:
        task: what to train.
        config: the loop's settings.
        out: folder of checkpoints, logs and the exported file.
        world: the processes sharing the run.
        artifact: name of the exported file in ``out``.
        init: weights to start from (a file, a run or a checkpoint), or None for the task's own.
        resume: continue from the latest checkpoint in ``out``, if there is one.

    ``ValueError`` when ``out`` already holds a run and ``resume`` is False, when ``out`` cannot be made, and when
    ``init`` or the checkpoint holds no weights or another network's: all before the task prepares its data, which may
    take hours.
    """

    def __init__(
        self,
        task: Task,
        config: TrainerConfig,
        out: Path,
        world: World,
        *,
        artifact: str = "model.safetensors",
        init: Path | None = None,
        resume: bool = False,
    ) -> None:
        self.task, self.config, self.out, self.world, self.artifact = task, config, out, world, artifact
        self.step = 0
        self.clock = Clock(config.max_seconds, world)
        self._seconds_before = 0.0
        found = checkpoint.latest(out)
        if found is not None and not resume:
            raise ValueError(f"{out} already holds a run: add --resume to continue it, or choose another --out")
        if world.is_main and found is None and init is not None:
            init = checkpoint.find_weights(init)
        if world.is_main:
            _make_folder(out)
            if found is not None or init is not None:
                self._require_fitting(found, init)
        torch.manual_seed(derive_seed(config.seed, "run"))
        task.prepare(world.device, world.rank, world.size)
        self.model = self._make_model(None if found is not None else init, on_meta=bool(found or init))
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        self.parameters = [p for _, p in named]
        self.optimiser = optimise.make_optimiser(named, config.optimiser, world.device)
        self.ema = EMA(self.model, config.ema)
        self.run_state = checkpoint.RunState(model=self.model, ema=self.ema, optimiser=self.optimiser)
        if found is not None:
            state = checkpoint.load(found, self.run_state, world)
            self.step, self._seconds_before = state["step"], state["seconds"]
            logger.info("resumed at step %d from %s", self.step, found)
        self._saved_step = self.step if found is not None else None
        self._totals = Totals(world)

    def run(self) -> None:
        """Train until the end of the run (or a stop signal), leave a checkpoint and write the exported file."""
        logbook = Logbook(self.out, self.step) if self.world.is_main else None
        self.clock.start(self._seconds_before, self.step)
        self._last_log, self._last_log_step = time.monotonic(), self.step
        with self.clock.heeding_signals():
            while not self._finished():
                self.train_step()
                self.clock.agree(self.step)
                if self.step % self.config.log_every == 0 or self.step == self.config.steps:
                    self._report(logbook)
                pause = time.monotonic()
                if self._due(self.config.checkpoint_every):
                    self.save()
                if self._due(self.config.sample_every):
                    self._show_samples(logbook)
                self._last_log += time.monotonic() - pause  # ms_per_step speaks of training only
        if self._saved_step != self.step:
            self._totals.check(self.step)
            self.save()
        if not self.stopped:
            self.export()
        if logbook is not None:
            logbook.close()

    def train_step(self) -> None:
        """One optimiser step: all micro-batches, clipping, AdamW, average."""
        config = self.config
        for micro in range(config.accumulate):
            last = micro == config.accumulate - 1
            if config.parallel.strategy == "fsdp" and self.world.size > 1:
                self.model.set_requires_gradient_sync(last)
            loss, scalars = self._loss(self.moment(micro))
            (loss / config.accumulate).backward()
            self._totals.add(self.step, loss.detach(), scalars)
        if config.parallel.strategy == "replicate":
            parallel.average_gradients(self.parameters, self.world)
        self.gradient_norm = optimise.clip_gradients(self.parameters, config.optimiser.clip_norm)
        self._totals.require_finite(self.step, local(self.gradient_norm))
        self.lr = optimise.learning_rate(config.optimiser, self.step, self.progress)
        optimise.set_learning_rate(self.optimiser, self.lr)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.ema.update(self.step)
        self.step += 1

    def moment(self, micro: int = 0) -> Moment:
        """The micro-batch this process takes next."""
        index = (self.step * self.config.accumulate + micro) * self.world.size + self.world.rank
        return Moment(seed=self.config.seed, step=self.step, index=index, progress=self.progress)

    @property
    def stopped(self) -> bool:
        """Whether a signal ended the run before its end."""
        return self.clock.stopping and not self._complete()

    @property
    def progress(self) -> float:
        return min(1.0, max(self.step / self.config.steps, self.clock.share))

    def save(self) -> Path:
        """Write a checkpoint of the present step."""
        self._totals.check(self.step)
        state = {"step": self.step, "seconds": self.clock.seconds(), "world_size": self.world.size}
        folder = checkpoint.save(self.out, self.run_state, self.world, state=state, keep=self.config.keep_checkpoints)
        self._saved_step = self.step
        return folder

    def export(self) -> None:
        """Hand the averaged weights to the task, which writes the file that ships."""
        weights = checkpoint.averaged_weights(self.run_state, self.world)
        if self.world.is_main:
            self.task.export(weights, self.out / self.artifact)

    def _make_model(self, init: Path | None, *, on_meta: bool) -> nn.Module:
        """Build, freeze, wrap, shard and fill the model. A sharded model is never whole where weights will be read."""
        config, world = self.config, self.world
        sharded = config.parallel.strategy == "fsdp" and world.size > 1
        on_meta = on_meta and sharded
        model = self.task.build(torch.device("meta") if on_meta else world.device)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.task.trainable(name))
        if not any(p.requires_grad for p in model.parameters()):
            raise ValueError("the task trains no parameter: check its stage")
        blocks = getattr(model, config.parallel.blocks, ())
        if config.checkpoint_activations:
            parallel.checkpoint_activations(blocks)
        for module in {"no": (), "model": (model,), "blocks": blocks}[config.compile]:
            module.compile()
        if sharded:
            parallel.shard(model, config.parallel, world)
            if on_meta:
                model.to_empty(device=world.device)
        else:
            parallel.replicate(model, world)
        if init is not None:
            self._start_from(model, init)
        return model.train()

    def _require_fitting(self, found: Path | None, init: Path | None) -> None:
        """``ValueError`` for a checkpoint or weights of another network, told by names and shapes alone."""
        model = self.task.build(torch.device("meta"))
        expected = {name: value.shape for name, value in model.state_dict().items()}
        if found is not None:
            checkpoint.require_model(found, expected)
            return
        weights = checkpoint.weights_on_meta(init)
        if isinstance(self.task, Adopting):
            weights = self.task.adopt(weights, expected)
        difference = checkpoint.differing({name: value.shape for name, value in weights.items()}, expected)
        if difference:
            raise ValueError(
                f"{init} holds another network: {len(difference)} tensors differ ({', '.join(difference[:8])}); give "
                "weights of this one"
            )

    def _start_from(self, model: nn.Module, init: Path) -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        weights: dict[str, Tensor] = {}
        if self.world.is_main:
            weights = checkpoint.read_weights(init)
            if isinstance(self.task, Adopting):
                weights = self.task.adopt(weights, {name: p.shape for name, p in model.state_dict().items()})
            logger.info("starting from %s (%d tensors)", init, len(weights))
        several = self.world.size > 1
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=several, strict=True)
        set_model_state_dict(model, weights, options=options)

    def _loss(self, moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        batch = self.task.batch(moment)
        enabled = self.config.precision == "bfloat16"
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=enabled):
            return self.task.loss(self.model, batch, moment)

    def _report(self, logbook: Logbook | None) -> None:
        norm = self.gradient_norm
        values = self._totals.read(self.step)
        values["gradient_norm"] = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        now = time.monotonic()
        values["lr"] = self.lr
        values["ms_per_step"] = 1000 * (now - self._last_log) / max(1, self.step - self._last_log_step)
        values["seconds"] = self.clock.seconds()
        self._last_log, self._last_log_step = now, self.step
        if logbook is not None:
            logbook.scalars(self.step, values)

    def _show_samples(self, logbook: Logbook | None) -> None:
        if not isinstance(self.task, Sampling):
            return
        self.model.eval()
        state = checkpoint.random_state(self.world.device)  # a run that resumes here shows no samples
        with self.ema.applied(), torch.no_grad():
            videos = self.task.samples(self.model, self.step)
        checkpoint.set_random_state(state, self.world.device)
        self.model.train()
        if logbook is not None and videos:
            logbook.videos(self.step, videos)

    def _due(self, every: int | None) -> bool:
        return every is not None and self.step % every == 0

    def _complete(self) -> bool:
        return self.step >= self.config.steps or self.clock.share >= 1.0

    def _finished(self) -> bool:
        return self._complete() or self.clock.stopping


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"the run folder {out} cannot be made ({error.strerror}): choose another --out") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise ValueError(f"the run folder {out} is not writable: choose another --out")
