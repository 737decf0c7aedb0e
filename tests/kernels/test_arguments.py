"""The questions that ops share: each names the argument that does not fit."""

from __future__ import annotations

import pytest
import torch

from humo_rt.kernels.arguments import DTYPES, check_axes, check_dtypes, check_one_device, check_types


def test_what_fits_passes():
    check_axes("(B, L, D)", x=torch.ones(1, 2, 3), y=torch.ones(3, 2, 1))
    check_dtypes(**{str(dtype): dtype for dtype in DTYPES})
    check_one_device(x=torch.ones(1), y=None, z=torch.ones(2))
    check_types(x=torch.ones(1), y=None, z=torch.ones(2))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5), (2, 0, 3)])
def test_axes(shape):
    with pytest.raises(ValueError, match=r"y \(2, .*\) is not \(B, L, D\) with every axis at least one"):
        check_axes("(B, L, D)", x=torch.ones(1, 2, 3), y=torch.ones(shape))


def test_dtypes():
    with pytest.raises(ValueError, match="out is torch.float64: use float32, float16 or bfloat16"):
        check_dtypes(x=torch.float16, out=torch.float64)


def test_devices():
    with pytest.raises(ValueError, match="z on meta, x on cpu: use one device"):
        check_one_device(x=torch.ones(1), y=None, z=torch.ones(1, device="meta"))


def test_types_are_dtypes_and_a_device():
    with pytest.raises(ValueError, match="z is torch.float64: use float32"):
        check_types(x=torch.ones(1), y=None, z=torch.ones(1).double())
    with pytest.raises(ValueError, match="z on meta, x on cpu"):
        check_types(x=torch.ones(1), y=None, z=torch.ones(1, device="meta"))
