"""Run an op's cases through Triton's interpreter: ``TRITON_INTERPRET=1 python -m tests.kernels.interpreted <op>``.

The variable has to be set before Triton is imported, hence a process of its own. What follows the op, ``NAME=number``,
replaces numbers of its Triton module, such as those by which it chooses between two kernels.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import ExitStack
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
    op, *changes = sys.argv[1:]
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(interpreter, "_convert_float", _convert_as_hardware))
        for change in changes:
            name, _, number = change.partition("=")
            module = importlib.import_module(f"humo_rt.kernels.{op}.triton_impl")
            stack.enter_context(mock.patch.object(module, name, int(number)))
        check(op, "triton", "cpu")
