"""Run an op's cases through Triton's interpreter: ``TRITON_INTERPRET=1 python -m tests.kernels.interpreted <op>``.

The variable has to be set before Triton is imported, hence a process of its own.
"""

from __future__ import annotations

import sys
from unittest import mock

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

from humo_rt.kernels.testing import check

_convert = interpreter._convert_float


def _convert_as_hardware(values, given, wanted, rounding):
    """Triton 3.7 loses the carry when a value rounds up to a power of two: 31.5 becomes e4m3's 16, not 32."""
    if wanted == tl.float8e4nv and given == tl.float32:
        rounded = torch.from_numpy(np.ascontiguousarray(values)).to(torch.float8_e4m3fn)
        return rounded.view(torch.uint8).numpy()
    return _convert(values, given, wanted, rounding)


if __name__ == "__main__":
    with mock.patch.object(interpreter, "_convert_float", _convert_as_hardware):
        check(sys.argv[1], "triton", "cpu")
