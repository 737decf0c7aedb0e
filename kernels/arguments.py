"""What most ops ask of their arguments, in one wording: axes, dtypes, one device. Knows no op."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_axes(axes: str, **tensors: Tensor) -> None:
    """``ValueError`` unless each has as many axes as ``axes``, such as "(B, L, D)", names, and none is empty."""
    for name, tensor in tensors.items():
        if tensor.ndim != axes.count(",") + 1 or tensor.numel() == 0:
            raise ValueError(f"{name} {tuple(tensor.shape)} is not {axes} with every axis at least one")


def check_dtypes(**dtypes: torch.dtype) -> None:
    """``ValueError`` unless each is one of ``DTYPES``."""
    for name, dtype in dtypes.items():
        if dtype not in DTYPES:
            raise ValueError(f"{name} is {dtype}: use float32, float16 or bfloat16")


def check_types(**tensors: Tensor | None) -> None:
    """``ValueError`` unless all that are given have one of ``DTYPES`` and are where the first is."""
    check_dtypes(**{name: tensor.dtype for name, tensor in tensors.items() if tensor is not None})
    check_one_device(**tensors)


def check_one_device(**tensors: Tensor | None) -> None:
    """``ValueError`` unless all that are given are where the first is."""
    (first, place), *others = [(name, tensor.device) for name, tensor in tensors.items() if tensor is not None]
    for name, device in others:
        if device != place:
            raise ValueError(f"{name} on {device}, {first} on {place}: use one device")


def check_padding(padding: int) -> None:
    """``ValueError`` for less than no rows."""
    if padding < 0:
        raise ValueError(f"padding is {padding}: give the number of rows of zeros to add, 0 or more")
