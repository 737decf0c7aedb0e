"""Muon for matrices, AdamW for everything else, in one optimiser.

Muon (K. Jordan et al., 2024) replaces the momentum of a matrix by the nearest matrix with equal singular values, found
by a few Newton-Schulz steps, so that no direction of a layer waits for the loudest one. Convolution kernels count as
matrices from everything they read to their outputs. The step is scaled to the size that AdamW's would have (J. Liu et
al., "Muon is scalable for LLM training", 2025), so one learning rate serves both.

Matrices of one shape are worked on together: a small network has many small ones.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

_STEPS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ADAM_SIZE = 0.2  # root mean square of AdamW's step at learning rate 1, as observed


def is_matrix(parameter: Tensor) -> bool:
    """Whether ``parameter`` maps several inputs to several outputs (norms and biases do not)."""
    return parameter.ndim >= 2 and parameter.shape[0] > 1 and parameter[0].numel() > 1


class Muon(torch.optim.AdamW):
    """AdamW whose groups marked ``orthogonal`` are updated by Muon, with ``betas[0]`` as momentum.

    Takes whole tensors; sharded ones would need gathering first.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient. AdamW passes over matrices, whose gradients are taken away."""
        for group in self.param_groups:
            if group.get("orthogonal"):
                self._update_matrices(group)
        super().step(closure)

    def _update_matrices(self, group: dict) -> None:
        lr, momentum = group["lr"], group["betas"][0]
        alike: dict[tuple, list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike[parameter.shape].append(parameter)
        for parameters in alike.values():
            averages = [self._average(parameter) for parameter in parameters]
            gradients = [parameter.grad for parameter in parameters]
            torch._foreach_lerp_(averages, gradients, 1 - momentum)
            ahead = torch._foreach_lerp(gradients, averages, momentum)
            update_NOI = orthogonal(torch.stack([step.flatten(1) for step in ahead]))
            size = lr * _ADAM_SIZE * max(update_NOI.shape[1:]) ** 0.5
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
            steps = [step.view_as(p) for step, p in zip(update_NOI.to(parameters[0].dtype), parameters, strict=True)]
            torch._foreach_add_(parameters, steps, alpha=-size)
            for parameter in parameters:
                parameter.grad = None

    def _average(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(parameter)
        return state["exp_avg"]


def orthogonal(matrices_NOI: Tensor) -> Tensor:
    """For every matrix roughly the nearest one whose singular values are all 1; zero stays zero.

    In bfloat16 on a GPU: the iteration forgives rounding.
    """
    a, b, c = _COEFFICIENTS
    wide = matrices_NOI.shape[1] <= matrices_NOI.shape[2]
    x = matrices_NOI if wide else matrices_NOI.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    if x.is_cuda:
        x = x.bfloat16()
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT
