"""Several processes as one run: starting them, copying or sharding the model, averaging gradients.

Knows processes and parameters; nothing of data, losses or files. Processes are started by torchrun; without it there
is one. Averaging is explicit, once per optimiser step, so that a task may call its model in any way it likes.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from humo_rt.runtime.placement import chosen_device
from training.config import ParallelConfig
from training.errors import RunError


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among its equals, and the device it works on."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def reduce(self, values: Tensor, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
        """``values`` combined over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values, op=op)
        return values


def join(device: str | None = None) -> World:
    """Join the process group torchrun announces, or stand alone. ``device`` counts only when alone.

    ``ValueError`` for a name torch does not know, ``RunError`` when a CUDA device is asked for and there is none.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if size > 1 and device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        chosen = chosen_device(device)
    except RuntimeError as error:
        raise RunError(str(error)) from error
    if chosen.type == "cuda":
        chosen = torch.device("cuda", chosen.index or 0)  # torch 2.11 sets no device without an index
        torch.cuda.set_device(chosen)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo", device_id=chosen if chosen.type == "cuda" else None
        )
    return World(rank=dist.get_rank() if size > 1 else 0, size=size, device=chosen)


def exit_process(code: int) -> NoReturn:
    """End the process; one that shares its run ends at once, without taking the interpreter apart.

    Caches of FSDP keep the process group alive after it is destroyed, and gloo's threads with it. One that gives a
    tensor back while the interpreter ends aborts the process (PyTorch issue 190489), and torchrun would call a finished
    run failed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        sys.exit(code)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def checkpoint_activations(blocks: Iterable[nn.Module]) -> None:
    """Let every block recompute its activations in the backward pass. Parameter names do not change."""
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def shard(model: nn.Module, config: ParallelConfig, world: World) -> None:
    """Shard ``model`` over all processes with FSDP2, one group per block and one for the rest."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # Our losses change no output of a model in place, which is all this warning is about.
    warnings.filterwarnings("ignore", message=".*returned a view tensor")
    mesh = init_device_mesh(world.device.type, (world.size,))
    # Inputs are not cast: timesteps up to 1000 and float32 residuals do not survive bfloat16.
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if config.gather_dtype == "bfloat16" else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    for block in getattr(model, config.blocks, ()):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def replicate(model: nn.Module, world: World) -> None:
    """Give every process the weights of the first."""
    if world.size > 1:
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor, src=0)


def average_gradients(parameters: list[nn.Parameter], world: World) -> None:
    """Average gradients of replicated parameters in one message; a missing gradient counts as zero."""
    if world.size == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    grads = [parameter.grad for parameter in parameters]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= world.size
    parts = flat.split([grad.numel() for grad in grads])
    torch._foreach_copy_(grads, [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)])
