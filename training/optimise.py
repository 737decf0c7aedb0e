"""The optimiser, its learning rate over the run, and gradient clipping.

Knows parameters by name; nothing of models or data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from training.config import OptimiserConfig
from training.muon import Muon, is_matrix


def make_optimiser(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimiserConfig, device: torch.device
) -> torch.optim.AdamW:
    """AdamW, or Muon for matrices and AdamW for the rest.

    Weight decay is on matrices only (no biases, norms or names in ``no_decay``). Muon leaves to AdamW the names in
    ``no_decay`` and ``no_muon``.
    """
    muon = config.name == "muon"
    orthogonal, decayed, plain = [], [], []
    for name, parameter in named_parameters:
        is_plain = parameter.ndim < 2 or any(part in name for part in config.no_decay)
        by_muon = muon and is_matrix(parameter) and not any(part in name for part in config.no_muon)
        (plain if is_plain else orthogonal if by_muon else decayed).append(parameter)
    groups = [
        {"params": orthogonal, "weight_decay": config.weight_decay, "orthogonal": True},
        {"params": decayed, "weight_decay": config.weight_decay, "orthogonal": False},
        {"params": plain, "weight_decay": 0.0, "orthogonal": False},
    ]
    return (Muon if muon else torch.optim.AdamW)(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=device.type == "cuda",
    )


def learning_rate(config: OptimiserConfig, step: int, progress: float) -> float:
    """Learning rate of optimiser step ``step`` (from 0) at ``progress`` in 0..1 of the run."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant":
        return config.lr * warm
    fall = 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return config.lr * warm * (config.final_lr + (1.0 - config.final_lr) * fall)


def set_learning_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr


def clip_gradients(parameters: list[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale gradients to a total norm of at most ``max_norm`` (None: only measure); returns the norm before."""
    return nn.utils.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm, foreach=True)
