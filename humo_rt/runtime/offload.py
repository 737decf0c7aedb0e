"""Networks that are kept in one memory and visit another device while they work.

Their weights do not change, so a visit copies one way only. Knows modules and devices, not which networks visit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def visiting(module: nn.Module, device: torch.device) -> Iterator[None]:
    """``module`` on ``device`` while the context lasts; afterwards it has the tensors from before again.

    Where it is on ``device`` anyway, nothing is copied.
    """
    tensors = [*module.parameters(), *module.buffers()]
    home = [tensor.data for tensor in tensors]
    try:
        for tensor, data in zip(tensors, home, strict=True):
            tensor.data = data.to(device)
        yield
    finally:
        for tensor, data in zip(tensors, home, strict=True):
            tensor.data = data
