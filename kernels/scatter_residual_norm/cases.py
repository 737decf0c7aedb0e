"""Inputs of residual and norm of some rows: awkward ones for tests, real ones for benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels.float8 import quantized
from humo_rt.kernels.gather_norm.cases import DTYPES, EPS, SHARE, WORKLOADS, some_rows
from humo_rt.kernels.testing import Case

__all__ = ["CASES", "WORKLOADS", "bytes_moved", "make_inputs"]

Inputs = tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor, Tensor, float]


def make_inputs(
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    device: torch.device,
    *,
    share: float = SHARE,
    in_e4m3: bool = False,
) -> Inputs:
    """A float32 residual stream, its norm from before, what is to be added to some rows, two of six vectors."""
    generator = torch.Generator(device).manual_seed(sum(shape))
    batch, length, width = shape

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    residual_BLD, normed_BLD, row_scale_BL1 = normal(*shape) * 3 + 0.5, normal(*shape).to(dtype), None
    if in_e4m3:
        normed_BLD, row_scale_BL1 = quantized(normed_BLD.float())
    rows_M = some_rows(length, share, generator)
    y_BMD = normal(batch, len(rows_M), width).to(dtype)
    shift_B1D, scale_B1D = normal(batch, 6, width).chunk(6, dim=1)[3:5]
    return residual_BLD, normed_BLD, row_scale_BL1, y_BMD, rows_M, shift_B1D, scale_B1D, EPS


def bytes_moved(
    residual_BLD: Tensor, normed_BLD: Tensor, row_scale_BL1: Tensor | None, y_BMD: Tensor, *rest: object
) -> int:
    """What has to cross the memory bus: every row that changes once in and once out, what is added once."""
    read = sum(each.nbytes for each in (y_BMD, *rest) if isinstance(each, Tensor))
    scales = 0 if row_scale_BL1 is None else 4 * y_BMD[..., 0].numel()
    return read + y_BMD.numel() * (2 * residual_BLD.element_size() + normed_BLD.element_size()) + scales


def _strided(dtype: torch.dtype, device: torch.device) -> Inputs:
    residual_BLD, normed_BLD, scales, y_BMD, rows_M, shift_B1D, scale_B1D, *rest = make_inputs(
        (3, 40, 256), dtype, device, share=0.5
    )
    y_BMD, rows_M = y_BMD[:, ::3], rows_M.flip(0)[::3]
    return residual_BLD.to(dtype), normed_BLD, scales, y_BMD, rows_M, shift_B1D[:1], scale_B1D, *rest


def _cases(dtype: torch.dtype) -> list[Case]:
    shapes = [(1, 1, 64), (3, 21, 256), (8, 3, 1000), (2, 100, 63), (1, 9, 1536), (1, 3, 5120)]
    kinds = {"": {}, " in e4m3": {"in_e4m3": True}}
    suffix = str(dtype).removeprefix("torch.")
    plain = [
        Case(
            name=f"{shape}{kind} {suffix}",
            make=lambda device, shape=shape, knobs=knobs: make_inputs(shape, dtype, device, **knobs),
        )
        for shape in shapes
        for kind, knobs in kinds.items()
    ]
    return [*plain, Case(name=f"strided {suffix}", make=lambda device: _strided(dtype, device))]


CASES = [case for dtype in DTYPES for case in _cases(dtype)]
