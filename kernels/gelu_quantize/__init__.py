"""tanh-GELU, then rows in e4m3 with a float32 scale each: what stands between the two products of a feed-forward.

    g[...] = gelu_tanh(x[...])
    scale[...] = max(|g[...]|) / 448            values[...] = e4m3(g[...] / scale[...])

x: (..., D) float32, float16 or bfloat16; anything not contiguous is copied first.
values: (..., D) e4m3 and scale: (..., 1) float32, contiguous, by the rule of ``kernels/float8.py``. All arithmetic is
float32: GELU is not rounded before it is quantised.
"""

from __future__ import annotations

import torch
from torch import Tensor

from humo_rt.kernels import registry
from humo_rt.kernels.float8 import QuantizedRows
from humo_rt.kernels.gelu_quantize.reference import reference
from humo_rt.kernels.quantize_rows import check_rows


def gelu_quantize(x: Tensor) -> QuantizedRows:
    """Values and scales; shapes above. ``ValueError`` names what does not fit."""
    check_rows(x)
    return QuantizedRows(*(reference(x) if registry.exporting() else _gelu_quantize(x)))


@torch.library.custom_op("humo_rt::gelu_quantize", mutates_args=())
def _gelu_quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    return registry.select("gelu_quantize", x.device)(x)


_gelu_quantize.register_fake(reference)
