"""RMSNorm over channels and SiLU in one pass, written behind the frames a causal convolution still remembers.

    out[n, :P] = history[n]
    out[n, P + t] = silu(sqrt(C) * x[n, t] / max(|x[n, t]|, 1e-12) * gamma)        |.| over the channels

x_NTYXC: (N, T, Y, X, C) float32, float16 or bfloat16, channels last; anything not contiguous is copied first. Y and X
are the rows and columns of a frame; a border of zeros stays a border of zeros.
gamma_C: (C,) in the dtype of x.
history_NPYXC: (N, P, Y, X, C) in the dtype of x: the last frames of the piece before; None for P = 0.
out: (N, P + T, Y, X, C) contiguous in the dtype of x: the input of a convolution over P + 1 frames. Arithmetic is
float32, rounded once at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.arguments import check_axes, check_dtypes, check_one_device
from humo_rt.kernels.rms_silu.reference import reference


def rms_silu(x_NTYXC: Tensor, gamma_C: Tensor, history_NPYXC: Tensor | None) -> Tensor:
    """History, then the activated norm of x; shapes above. ``ValueError`` names the argument that does not fit."""
    shape = tuple(x_NTYXC.shape)
    check_axes("(N, T, Y, X, C)", x=x_NTYXC)
    check_dtypes(x=x_NTYXC.dtype)
    if tuple(gamma_C.shape) != shape[-1:]:
        raise ValueError(f"gamma {tuple(gamma_C.shape)} does not fit x {shape}: give ({shape[-1]},)")
    if history_NPYXC is not None:
        given = tuple(history_NPYXC.shape)
        if len(given) != 5 or given[:1] + given[2:] != shape[:1] + shape[2:] or given[1] < 1:
            raise ValueError(f"history {given} does not fit x {shape}: give (N, P, Y, X, C) with P at least one")
    for name, tensor in {"gamma": gamma_C, "history": history_NPYXC}.items():
        if tensor is not None and tensor.dtype != x_NTYXC.dtype:
            raise ValueError(f"{name} is {tensor.dtype}, x is {x_NTYXC.dtype}: use one dtype")
    check_one_device(x=x_NTYXC, gamma=gamma_C, history=history_NPYXC)
    if registry.exporting():
        return reference(x_NTYXC, gamma_C, history_NPYXC)
    return _rms_silu(x_NTYXC, gamma_C, history_NPYXC)


@torch.library.custom_op("humo_rt::rms_silu", mutates_args=())
def _rms_silu(x_NTYXC: Tensor, gamma_C: Tensor, history_NPYXC: Tensor | None) -> Tensor:
    run = registry.select("rms_silu", x_NTYXC.device)
    return run(x_NTYXC, gamma_C, history_NPYXC)


_rms_silu.register_fake(reference)
