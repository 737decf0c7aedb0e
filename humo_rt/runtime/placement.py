"""Where a model runs. Knows torch's devices; nothing of models."""

from __future__ import annotations

import torch


def chosen_device(device: str | torch.device | None = None) -> torch.device:
    """``device`` if it can be used; without one the first GPU, otherwise the CPU.

    ``ValueError`` for a name torch does not know, ``RuntimeError`` for a GPU that is not there.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device is None:
        return torch.device("cuda" if gpus else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {str(device)!r}: use cuda, cuda:1 or cpu") from error
    if chosen.type not in ("cuda", "cpu"):
        raise ValueError(f"device {str(device)!r} is not one that models run on: use cuda, cuda:1 or cpu")
    if chosen.type == "cuda" and not gpus:
        raise RuntimeError("no usable NVIDIA GPU: pass device='cpu', or check the driver with `humo-rt doctor`")
    if chosen.type == "cuda" and (chosen.index or 0) >= gpus:
        raise RuntimeError(f"no GPU {chosen}: this machine has {gpus}, the last one is cuda:{gpus - 1}")
    return chosen
