"""Matrix products by quack, with bias and GELU in its epilogue. Importing this needs the package; for Hopper.

An epilogue is a function of one element that quack compiles into its kernel, in seconds, and keeps on disk. ``acc`` is
the product in float32, before anything is rounded.

Shape legend: B batch, L rows, K inputs, N outputs.
"""

from __future__ import annotations

import torch
from quack.activation import gelu_tanh_approx
from quack.epilogue import gemm_epilogue
from quack.epilogue.ops import RowVecLoad
from quack.gemm_config import GemmConfig
from torch import Tensor

# Two groups of warps take turns: while one computes, the epilogue of the other one runs. Of six tiles, in short turns
# on an H200, the best or within 2 % of it for each layer of HuMo-1.7B. No other was timed in its whole steps.
_TILES = GemmConfig(
    tile_m=128, tile_n=192, pingpong=True, cluster_m=2, cluster_n=1, device_capacity=9, is_dynamic_persistent=False
)


@gemm_epilogue(ops={"bias": RowVecLoad("bias")})
def _biased(acc, bias):
    return {"D": acc + bias}


@gemm_epilogue(ops={"bias": RowVecLoad("bias")})
def _gelu(acc, bias):
    return {"D": gelu_tanh_approx(acc + bias)}


def linear(x_BLK: Tensor, weight_NK: Tensor, bias_N: Tensor, gelu: bool) -> Tensor:
    """(B, L, N) in the dtype of ``x_BLK``: the linear layer, and with ``gelu`` the tanh form of GELU."""
    out_BLN = x_BLK.new_empty((*x_BLK.shape[:-1], len(weight_NK)))
    rows, epilogue = {"D": out_BLN.flatten(0, 1)}, _gelu if gelu else _biased
    with torch.cuda.device_of(out_BLN):
        epilogue(x_BLK.flatten(0, 1), weight_NK.t(), out=rows, config=_TILES, tuned=False, bias=bias_N[None])
    return out_BLN
