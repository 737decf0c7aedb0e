"""The time that no runtime can beat: the attention and the matrix products of one forward alone, on this machine.

Knows the shapes of the DiT's layers. Reads and writes nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from humo_rt.config import DiTConfig


def measure_floor(
    config: DiTConfig,
    shape: torch.Size | tuple[int, ...],
    runs: int,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.bfloat16,
    attention: Callable[[Tensor, Tensor, Tensor], Tensor] = F.scaled_dot_product_attention,
) -> dict[str, Any]:
    """Milliseconds of self-attention and of all linear layers of every block, each product timed alone.

    ``shape``: of the latents (B, C, T, H, W), reference frames included. ``attention`` takes q, k and v, (B, H, Q, K)
    each; give the model's own, so that it is held to its own kernel.
    """
    branches = shape[0]
    tokens = token_count(config, shape)
    kinds = {"device": device, "dtype": dtype}
    # The heads lie as a projection leaves them.
    rows = torch.randn(3, branches, tokens, config.num_heads, config.head_dim, **kinds)
    q, k, v = rows.transpose(2, 3)
    attended = median_of(lambda: attention(q, k, v), runs, device)
    dim, ffn = config.dim, config.ffn_dim
    products = {(dim, 3 * dim): 1, (dim, dim): 5, (dim, ffn): 1, (ffn, dim): 1}  # q, o of text and audio, o
    linear = 0.0
    for (width, result), count in products.items():
        x, weight = torch.randn(branches * tokens, width, **kinds), torch.randn(result, width, **kinds)
        linear += count * median_of(lambda x=x, weight=weight: F.linear(x, weight), runs, device)
    layers = config.num_layers
    total = layers * (attended + linear)
    return {"tokens": tokens, "attention": layers * attended, "linear": layers * linear, "total": total}


def token_count(config: DiTConfig, shape: torch.Size | tuple[int, ...]) -> int:
    """Tokens of one branch for latents of ``shape`` (B, C, T, H, W)."""
    tokens = 1
    for length, patch in zip(shape[2:], config.patch_size, strict=True):
        tokens *= length // patch
    return tokens


def branch_work(config: DiTConfig, tokens: int) -> float:
    """Floating-point operations of the measured products in one forward of one branch; a multiplication and an
    addition are two."""
    dim = config.dim
    linear = 2 * tokens * (8 * dim**2 + 2 * dim * config.ffn_dim)
    return float(config.num_layers * (linear + 4 * tokens**2 * dim))


def median_of(run: Callable[[], Any], runs: int, device: torch.device) -> float:
    """Median milliseconds after one run that is not counted."""
    run()
    return statistics.median(milliseconds(run, device) for _ in range(runs))


def milliseconds(run: Callable[[], Any], device: torch.device) -> float:
    """One run, from an idle device until its result is there: what the host adds counts."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - begin)
