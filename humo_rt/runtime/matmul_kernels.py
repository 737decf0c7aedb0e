"""The linear layers of a block by each library that computes them. Bias and GELU are part of the product.

Knows nothing of what this machine has; ``matmul_backends`` does. For inference: quack's operator has no backward pass.

Shape legend: B batch, L rows, K inputs, N outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from humo_rt.kernels import registry

TORCH, QUACK = "torch", "quack"
HALF = (torch.bfloat16, torch.float16)

# What quack is given, by whole steps on an H200 (benchmarks/LOG.md): HuMo-1.7B's products of 1536 inputs are faster
# with it, its products of 8960 and those of HuMo-17B, of 5120 and more, are not. Of 3072 rows a launch takes longer
# than the product, of 12,288 it does not; nor do widths of 256 pay.
FEWEST_ROWS, FEWEST_INPUTS, MOST_INPUTS = 8192, 1024, 2048


def linear(x_BLK: Tensor, weight_NK: Tensor, bias_N: Tensor, backend: str) -> Tensor:
    """A linear layer: (B, L, N)."""
    if taken_by_quack(x_BLK, weight_NK, backend):
        return _quack_linear(x_BLK, weight_NK, bias_N, False)
    return F.linear(x_BLK.to(weight_NK.dtype), weight_NK, bias_N)


def linear_gelu(x_BLK: Tensor, weight_NK: Tensor, bias_N: Tensor, backend: str) -> Tensor:
    """A linear layer and tanh-GELU: (B, L, N). In half precision on a GPU, GELU comes before the result is rounded.

    PyTorch's own operator for that computes the tanh form on a GPU alone.
    """
    if taken_by_quack(x_BLK, weight_NK, backend):
        return _quack_linear(x_BLK, weight_NK, bias_N, True)
    if x_BLK.is_cuda and x_BLK.dtype in HALF and x_BLK.dtype == weight_NK.dtype:
        y_MN = torch._addmm_activation(bias_N, x_BLK.flatten(0, -2), weight_NK.t(), use_gelu=True)
        return y_MN.unflatten(0, x_BLK.shape[:-1])
    return F.gelu(linear(x_BLK, weight_NK, bias_N, backend), approximate="tanh")


def taken_by_quack(x_BLK: Tensor, weight_NK: Tensor, backend: str) -> bool:
    """Whether ``backend`` is quack and this product is one that it is faster with."""
    return (
        backend == QUACK
        and x_BLK.is_cuda
        and x_BLK.ndim == 3
        and x_BLK.dtype == weight_NK.dtype
        and x_BLK.dtype in HALF
        and x_BLK.shape[0] * x_BLK.shape[1] >= FEWEST_ROWS
        and FEWEST_INPUTS <= weight_NK.shape[1] <= MOST_INPUTS
        and not registry.exporting()
    )


@torch.library.custom_op("humo_rt::quack_linear", mutates_args=())
def _quack_linear(x_BLK: Tensor, weight_NK: Tensor, bias_N: Tensor, gelu: bool) -> Tensor:
    from humo_rt.runtime import quack_products

    return quack_products.linear(x_BLK.contiguous(), weight_NK, bias_N, gelu)


@_quack_linear.register_fake
def _(x_BLK: Tensor, weight_NK: Tensor, bias_N: Tensor, gelu: bool) -> Tensor:
    return x_BLK.new_empty((*x_BLK.shape[:-1], weight_NK.shape[0]))
