"""Checkpoints of a run: written whole or not at all, found again, pruned.

A checkpoint is a folder ``step-00001000`` holding the sharded tensors of torch.distributed.checkpoint, one file of
random states per process, ``state.json``, and ``ema.safetensors``: the averaged weights in one file, which is what the
next stage starts from. It is written under a temporary name and renamed, and only then does the file ``latest`` name
it; whoever is killed in between leaves the previous checkpoint as it was. Tensors are stored by name, so a run may
resume with another number of processes.

Knows tensors and files; nothing of losses or data.
"""

from __future__ import annotations

import json
import pickle
import random
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from humo_rt.weights.readers import read_checkpoint
from training.ema import EMA
from training.muon import Muon
from training.parallel import World

WEIGHTS_FILE = "ema.safetensors"
_ADAM_STATE = ("exp_avg", "exp_avg_sq", "step")
_DAMAGED = (OSError, EOFError, ValueError, RuntimeError, pickle.UnpicklingError, CheckpointException)


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Everything a run is made of besides its settings."""

    model: nn.Module
    ema: EMA
    optimiser: torch.optim.Optimizer

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the run under a flat name; sharing memory with the run."""
        found = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        found |= {f"ema.{name}": value for name, value in self.ema.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                found[f"optimiser.{name}.{key}"] = value
        return found

    def allocate_optimiser(self, stored_names: set[str]) -> None:
        """Give every parameter that has optimiser state among ``stored_names`` room for it."""
        fused = bool(self.optimiser.defaults.get("fused"))
        orthogonal = {p for group in self.optimiser.param_groups if group["orthogonal"] for p in group["params"]}
        orthogonal = orthogonal if isinstance(self.optimiser, Muon) else set()
        for name, parameter in self.model.named_parameters():
            kept = [key for key in _ADAM_STATE if f"optimiser.{name}.{key}" in stored_names]
            if kept:
                needed = _ADAM_STATE[:1] if parameter in orthogonal else _ADAM_STATE  # Muon keeps the first only
                if kept != [*needed]:
                    raise ValueError(
                        f"the checkpoint has {' and '.join(kept)} of {name}, this optimiser {' and '.join(needed)}: "
                        "resume with the optimiser.name, muon or adamw, that it was written with"
                    )
                count = torch.zeros((), dtype=torch.float32, device=parameter.device if fused else "cpu")
                self.optimiser.state[parameter] = {
                    key: count if key == "step" else torch.zeros_like(parameter, requires_grad=False) for key in kept
                }


def save(root: Path, run: RunState, world: World, *, state: dict[str, Any], keep: int) -> Path:
    """Write checkpoint ``state["step"]`` below ``root``, point ``latest`` at it and keep ``keep - 1`` before it."""
    final = root / f"step-{state['step']:08d}"
    partial = root / f".partial-{final.name}"
    if world.is_main:
        for leftover in root.glob(".partial-*"):
            shutil.rmtree(leftover)
        partial.mkdir(parents=True)
    world.barrier()
    with _alone_is_fine():
        dcp.save(run.tensors(), checkpoint_id=partial / "tensors", no_dist=world.size == 1)
    torch.save(random_state(world.device), partial / f"random-{world.rank}.pt")
    weights = averaged_weights(run, world)
    if world.is_main:
        from safetensors.torch import save_file

        save_file(weights, partial / WEIGHTS_FILE)
        (partial / "state.json").write_text(json.dumps(state, indent=2))
    world.barrier()
    if world.is_main:
        if final.exists():  # whoever wrote it died before `latest` could name it
            assert latest(root) != final, f"{final} is the latest checkpoint already"
            shutil.rmtree(final)
        partial.replace(final)
        _point_latest(root, final.name)
        # Later ones are of a run that was taken back to an earlier step: this one may still come to write them.
        older = [other for other in _complete(root) if other.name < final.name]
        for old in older[: max(0, len(older) + 1 - keep)]:
            shutil.rmtree(old)
    world.barrier()
    return final


def latest(root: Path) -> Path | None:
    """The checkpoint ``latest`` names, or None where no run has written one."""
    pointer = root / "latest"
    if not pointer.is_file():
        return None
    name = pointer.read_text().strip()
    target = root / name
    if not name or not (target / "state.json").is_file():
        named = name or "nothing"
        raise ValueError(f"{pointer} names {named}, which is not there: write the name of one of its neighbours")
    return target


def load(folder: Path, run: RunState, world: World) -> dict[str, Any]:
    """Restore ``run`` from ``folder`` to the bit and return its ``state.json``.

    ``ValueError`` when the stored run has other tensors than this one, or cannot be read.
    """
    reader = dcp.FileSystemReader(folder / "tensors")
    with _explained(folder, *_DAMAGED):
        state = json.loads((folder / "state.json").read_text())
        if not isinstance(state, dict) or not {"step", "seconds"} <= set(state):
            raise ValueError("state.json lacks the step or the seconds")
        stored = reader.read_metadata().state_dict_metadata
        random_file = folder / f"random-{world.rank}.pt"
        drawn = torch.load(random_file, weights_only=True) if random_file.is_file() else None
    run.allocate_optimiser(set(stored))
    tensors = run.tensors()
    expected = {name: tensor.shape for name, tensor in tensors.items()}
    _require_same(folder, {name: tensor.size for name, tensor in stored.items()}, expected)
    # Not RuntimeError, which may be another process's.
    with _explained(folder, OSError, EOFError, CheckpointException), _alone_is_fine():
        dcp.load(tensors, storage_reader=reader, no_dist=world.size == 1)
    if drawn is not None:
        set_random_state(drawn, world.device)
    return state


def require_model(folder: Path, expected: dict[str, torch.Size]) -> None:
    """``ValueError`` unless the model stored in ``folder`` has tensors of these names and shapes."""
    with _explained(folder, *_DAMAGED):
        stored = dcp.FileSystemReader(folder / "tensors").read_metadata().state_dict_metadata
    prefix = "model."
    sizes = {name.removeprefix(prefix): x.size for name, x in stored.items() if name.startswith(prefix)}
    _require_same(folder, sizes, expected)


def _require_same(folder: Path, stored: dict[str, torch.Size], expected: dict[str, torch.Size]) -> None:
    if difference := differing(stored, expected):
        raise ValueError(
            f"{folder} holds another run: {len(difference)} tensors differ ({', '.join(difference[:8])}); resume with "
            "its recipe"
        )


def differing(shapes: dict[str, torch.Size], expected: dict[str, torch.Size]) -> list[str]:
    """Names that only one side has, or with another shape."""
    return sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))


def random_state(device: torch.device) -> dict[str, Any]:
    """Of all global generators, as ``set_random_state`` takes it."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on as when ``random_state`` was asked."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


@contextmanager
def _explained(folder: Path, *raised: type[BaseException]) -> Iterator[None]:
    """What a damaged file raises as one ``ValueError``; one of torch's is not even an ``Exception``."""
    try:
        yield
    except raised as error:
        cause = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
        reason = str(cause).strip().partition("\n")[0] or type(cause).__name__
        raise ValueError(
            f"{folder} cannot be read ({reason}): write the name of another step into {folder.parent / 'latest'}"
        ) from error


def averaged_weights(run: RunState, world: World) -> dict[str, Tensor]:
    """The whole model with averaged weights, on the CPU of the first process; empty elsewhere."""
    gathered = {}
    averages = run.ema.state_dict()
    for name, value in run.model.state_dict().items():
        tensor = averages.get(name, value).detach()
        if hasattr(tensor, "full_tensor"):
            tensor = tensor.full_tensor()
        if world.is_main:
            gathered[name] = tensor.cpu().contiguous()
    return gathered


def find_weights(path: Path) -> Path:
    """The weight file that ``--init path`` means: a file itself, a checkpoint's, or a run's latest checkpoint's."""
    if path.is_file():
        return path
    for candidate in (path / WEIGHTS_FILE, (latest(path) or path) / WEIGHTS_FILE):
        if candidate.is_file():
            return candidate
    raise ValueError(
        f"no weights at {path}: give a run folder, a checkpoint folder or a file (.safetensors, .pth, .index.json)"
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """A flat name -> tensor dict from any checkpoint file that humo_rt reads (no pickled code)."""
    return {name: tensor.read() for name, tensor in read_checkpoint(path).items()}


def weights_on_meta(path: Path) -> dict[str, Tensor]:
    """What ``read_weights`` gives, without values."""
    return {name: torch.empty(tensor.shape, device="meta") for name, tensor in read_checkpoint(path).items()}


@contextmanager
def _alone_is_fine() -> Iterator[None]:
    """Quiet torch's remark that one process saves by itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _point_latest(root: Path, name: str) -> None:
    partial = root / ".latest-partial"
    partial.write_text(name + "\n")
    partial.replace(root / "latest")


def _complete(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("step-*") if (path / "state.json").is_file())
