"""A linear layer whose product runs in float8 (e4m3): weights quantised once, activations row by row.

Knows the product and its scales; not which layers should run like this. For inference: it has no backward pass.

Shape legend: M rows, K inputs, N outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from humo_rt.kernels.float8 import QuantizedRows, quantized
from humo_rt.kernels.quantize_rows import quantize_rows

# Partial sums stay in the matrix units, which keep fewer bits than float32, for the whole of K.
FAST_ACCUMULATION = True
RESULT = torch.bfloat16


class Float8Linear(nn.Module):
    """``y = (values @ weight^T) * scale * weight_scale + bias``: one scale per row of x and one per output."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        """Made from one layer, or from several that read the same input: their outputs follow one another."""
        super().__init__()
        values_NK, scale_N1 = quantized(torch.cat([layer.weight.detach() for layer in layers]).float())
        self.weight = nn.Parameter(values_NK, requires_grad=False)
        self.weight_scale = nn.Parameter(scale_N1, requires_grad=False)
        bias_N = torch.cat([layer.bias.detach() for layer in layers])
        self.bias = nn.Parameter(bias_N.to(RESULT), requires_grad=False)

    def forward(self, x: Tensor | QuantizedRows) -> Tensor:
        """(..., K) in any float dtype, or its quantised rows, to (..., N) in bfloat16."""
        values, scale = x if isinstance(x, QuantizedRows) else quantize_rows(x)
        y_MN = torch._scaled_mm(
            values.flatten(0, -2),
            self.weight.t(),
            scale_a=scale.flatten(0, -2),
            scale_b=self.weight_scale.t(),
            bias=self.bias,
            out_dtype=RESULT,
            use_fast_accum=FAST_ACCUMULATION,
        )
        return y_MN.unflatten(0, values.shape[:-1])

    def dequantized(self) -> Tensor:
        """(N, K) float32: the weight that the product computes with."""
        return self.weight.float() * self.weight_scale
