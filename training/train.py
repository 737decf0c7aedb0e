"""Train a recipe: ``python -m training.train RECIPE``.

Reads the command line, changes the recipe as asked, and hands it to the trainer. Under torchrun every process runs
this; the first one writes.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from training import parallel
from training.config import Recipe, override
from training.errors import RunError
from training.profiling import profile_steps
from training.recipes import RECIPES, recipe
from training.task import Task
from training.trainer import Trainer

logger = logging.getLogger("training")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 the run failed, 2 the command line or a setting is wrong, 130 stopped by Ctrl-C."""
    options = _parser().parse_args(arguments)
    if options.list:
        _list_recipes()
        return 0
    try:
        return _run(options)
    except (ValueError, RunError) as error:
        if options.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        print("stopped at once: --resume continues from the latest checkpoint, if there is one", file=sys.stderr)
        return 130
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def configured(options: argparse.Namespace) -> Recipe:
    """The recipe with everything the command line changes."""
    if options.recipe is None:
        raise ValueError(f"no recipe given: choose one of {', '.join(RECIPES)} (--list describes them)")
    chosen = recipe(options.recipe)
    shortcuts = {"trainer.steps": options.steps, "trainer.max_seconds": options.max_seconds}
    assignments = {key: str(value) for key, value in shortcuts.items() if value is not None}
    for assignment in options.set:
        key, separator, value = assignment.partition("=")
        if not separator:
            raise ValueError(f"--set {assignment!r} has no value: write --set key=value")
        assignments[key] = value
    return override(chosen, assignments)


def make_task(chosen: Recipe) -> Task:
    """The task a recipe names, with its settings."""
    module, _, name = chosen.task_class.partition(":")
    return getattr(importlib.import_module(module), name)(chosen.task)


def _run(options: argparse.Namespace) -> int:
    chosen = configured(options)
    out = options.out or Path("runs") / chosen.name
    world = parallel.join(options.device)
    logging.basicConfig(
        level=logging.INFO if world.is_main else logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    if world.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    logger.info("%s: %s; %d process(es) on %s", chosen.name, chosen.about, world.size, world.device)
    if chosen.starts_from and options.init is None and not options.resume:
        logger.warning("%s usually starts from %s: pass its run with --init", chosen.name, chosen.starts_from)
    trainer = Trainer(
        make_task(chosen),
        chosen.trainer,
        out,
        world,
        artifact=chosen.artifact,
        init=options.init,
        resume=options.resume,
    )
    if options.profile_steps:
        profile_steps(trainer, options.profile_steps)
        return 0
    if world.is_main:
        _write_settings(chosen, out, options)
    trainer.run()
    return 130 if trainer.stopped else 0


def _write_settings(chosen: Recipe, out: Path, options: argparse.Namespace) -> None:
    """Append what this run was told to ``settings.jsonl``: the whole recipe, the start and the versions."""
    entry = {
        "recipe": dataclasses.asdict(chosen),
        "init": options.init,
        "resume": options.resume,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    with (out / "settings.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, default=str) + "\n")


def _list_recipes() -> None:
    for name in RECIPES:
        try:
            print(f"{name:24} {recipe(name).about}")
        except ImportError as error:
            print(f"{name:24} not available: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.train", description="Train a recipe.")
    add: Any = parser.add_argument
    add("recipe", nargs="?", help="name of the recipe")
    add("--list", action="store_true", help="list the recipes and stop")
    add("--out", type=Path, help="folder of the run (default: runs/RECIPE)")
    add("--init", type=Path, help="weights to start from: a run, a checkpoint or a weight file")
    add("--resume", action="store_true", help="continue from the run's latest checkpoint, if there is one")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting, e.g. task.batch_size=32")
    add("--steps", type=int, help="optimiser steps (trainer.steps)")
    add("--max-seconds", type=float, help="end after this long, schedules included (trainer.max_seconds)")
    add("--device", help="cpu, cuda or cuda:1 (default: the first GPU, else the CPU)")
    add("--debug", action="store_true", help="show where an error comes from")
    add("--profile-steps", type=int, metavar="N", help="time N steps part by part and stop, leaving no checkpoint")
    return parser


if __name__ == "__main__":
    parallel.exit_process(main())
