"""A DiT computing in float32 from weights that stay narrow: the truth of a comparison without a second copy of 17B."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from humo_rt.model.dit import HumoDiT


@contextmanager
def in_float32(dit: HumoDiT) -> Iterator[None]:
    """Within the block, forward passes of ``dit`` run in float32; afterwards it has the very weights it had.

    A linear of a block is widened for its own product only. What lies outside of the blocks is small and is widened as
    a whole. Norms and modulation compute in float32 anyway.
    """
    outside = [parameter for name, parameter in dit.named_parameters() if not name.startswith("blocks.")]
    narrow = [parameter.data for parameter in outside]
    tf32 = torch.backends.cudnn.allow_tf32
    linears = [module for module in dit.blocks.modules() if isinstance(module, nn.Linear)]
    hooks = [hook for linear in linears for hook in _widened_while_it_runs(linear)]
    torch.backends.cudnn.allow_tf32 = False
    try:
        for parameter in outside:
            parameter.data = parameter.data.float()
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
        for hook in hooks:
            hook.remove()
        for parameter, data in zip(outside, narrow, strict=True):
            parameter.data = data


def _widened_while_it_runs(linear: nn.Linear) -> tuple:
    kept: list[Tensor] = []

    def widen(module: nn.Linear, inputs: tuple) -> None:
        kept[:] = [parameter.data for parameter in module.parameters()]
        for parameter in module.parameters():
            parameter.data = parameter.data.float()

    def narrow(module: nn.Linear, inputs: tuple, output: Tensor) -> None:
        for parameter, data in zip(module.parameters(), kept, strict=True):
            parameter.data = data
        kept.clear()

    # Also after an error, so that nothing stays wide.
    return linear.register_forward_pre_hook(widen), linear.register_forward_hook(narrow, always_call=True)
