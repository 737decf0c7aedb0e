"""Convolution over past frames, rows and columns of channels-last video that carries its zero padding with it.

    out[n, t, y, x, o] = bias[o] + residual[n, t, y, x, o] + sum over i, j, k, c of
                         weight[o, i, j, k, c] * x[n, t + i, y + j - KH // 2, x + k - KW // 2, c]

x_NTYXC: (N, T + KT - 1, Y, X, C), contiguous. A frame is Y - 2 by X - 2 pixels inside a border of zeros one wide, so
that every tap of every pixel lies within memory. The first KT - 1 frames are those before the piece, zeros at the
beginning of the video.
weight_OIJKC: (O, KT, KH, KW, C) contiguous, which is how a channels-last weight of PyTorch lies in memory. KH and KW
are 1 or 3, C and O multiples of 16.
bias_O: (O,). residual_NTYXO: (N, T, Y, X, O) or None; its border is not read.
out: (N, T, Y, X, O), its border zero. All in one dtype, float16 or bfloat16, on the CPU float32
too. Sums are float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.causal_conv.reference import reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CHANNEL_MULTIPLE = 16


def causal_conv(x_NTYXC: Tensor, weight_OIJKC: Tensor, bias_O: Tensor, residual_NTYXO: Tensor | None) -> Tensor:
    """The convolution; shapes above. ``ValueError`` names the argument that does not fit."""
    if x_NTYXC.ndim != 5 or weight_OIJKC.ndim != 5 or min(x_NTYXC.shape) < 1:
        raise ValueError(
            f"x {tuple(x_NTYXC.shape)}, weight {tuple(weight_OIJKC.shape)}: give (N, T, Y, X, C) and (O, KT, KH, KW, C)"
        )
    batch, frames, rows, columns, channels = x_NTYXC.shape
    outputs, taps, height, width, inputs = weight_OIJKC.shape
    if inputs != channels or inputs % CHANNEL_MULTIPLE or outputs % CHANNEL_MULTIPLE:
        raise ValueError(
            f"weight {tuple(weight_OIJKC.shape)} does not fit x of {channels} channels: "
            f"give (O, KT, KH, KW, {channels}) with multiples of {CHANNEL_MULTIPLE}"
        )
    if height not in (1, 3) or width not in (1, 3):
        raise ValueError(f"kernel {height}x{width}: the border of one pixel is made for 1 and 3")
    if frames < taps or rows < 3 or columns < 3:
        raise ValueError(f"x {tuple(x_NTYXC.shape)} has no pixel for {taps} taps in time: add frames or the border")
    if tuple(bias_O.shape) != (outputs,):
        raise ValueError(f"bias {tuple(bias_O.shape)} does not fit the weight: give ({outputs},)")
    expected = (batch, frames - taps + 1, rows, columns, outputs)
    if residual_NTYXO is not None and tuple(residual_NTYXO.shape) != expected:
        raise ValueError(f"residual {tuple(residual_NTYXO.shape)} does not fit the result: give {expected}")
    _check_types(x=x_NTYXC, weight=weight_OIJKC, bias=bias_O, residual=residual_NTYXO)
    if registry.exporting():
        return reference(x_NTYXC, weight_OIJKC, bias_O, residual_NTYXO)
    return _causal_conv(x_NTYXC, weight_OIJKC, bias_O, residual_NTYXO)


def _check_types(x: Tensor, **others: Tensor | None) -> None:
    if x.dtype not in DTYPES or (x.is_cuda and x.dtype == torch.float32):
        raise ValueError(f"x is {x.dtype} on {x.device}: use float16 or bfloat16, on the CPU also float32")
    for name, tensor in {"x": x, **others}.items():
        if tensor is None:
            continue
        if tensor.dtype != x.dtype or tensor.device != x.device:
            given = f"{tensor.dtype} on {tensor.device}"
            raise ValueError(f"{name} is {given}, x is {x.dtype} on {x.device}: use one dtype and device")
        if not tensor.is_contiguous():
            raise ValueError(f"{name} of strides {tensor.stride()} is not contiguous: lay it out once")


@torch.library.custom_op("humo_rt::causal_conv", mutates_args=())
def _causal_conv(x_NTYXC: Tensor, weight_OIJKC: Tensor, bias_O: Tensor, residual_NTYXO: Tensor | None) -> Tensor:
    run = registry.select("causal_conv", x_NTYXC.device)
    return run(x_NTYXC, weight_OIJKC, bias_O, residual_NTYXO)


_causal_conv.register_fake(reference)
