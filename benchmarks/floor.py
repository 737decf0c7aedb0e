"""The time that no runtime can beat but by computing less: the attention and the matrix products of one forward alone,
on this machine.

Fused blocks do compute less where they can: audio's output projection is folded into its values. It counts here as the
layer that it is, so that floors of all runtimes compare. Knows the shapes of the DiT's layers; reads and writes
nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
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
    """Milliseconds of self-attention and of all linear layers of every block; medians over ``runs`` forwards.

    They run back to back in the model's order, so that the card is as warm, and its clock as low, as in a generation: a
    product alone on a cool card is up to a tenth faster than the same product in a step.

    ``shape``: of the latents (B, C, T, H, W), reference frames included. ``attention`` takes q, k and v, (B, H, Q, K)
    each; give the model's own, so that it is held to its own kernel.
    """
    branches, tokens = shape[0], token_count(config, shape)
    dim, ffn = config.dim, config.ffn_dim
    kinds = {"device": device, "dtype": dtype}
    # The heads lie as a projection leaves them.
    q, k, v = torch.randn(3, branches, tokens, config.num_heads, config.head_dim, **kinds).transpose(2, 3)
    x, widened = torch.randn(branches * tokens, dim, **kinds), torch.randn(branches * tokens, ffn, **kinds)
    square, qkv, widen, narrow = (
        torch.randn(shape, **kinds) / shape[1] ** 0.5 for shape in ((dim, dim), (3 * dim, dim), (ffn, dim), (dim, ffn))
    )

    def block(mark: Callable[[], None]) -> None:
        F.linear(x, qkv)
        mark()
        attention(q, k, v)
        mark()
        for _ in range(5):  # the output of attention, queries and outputs of text and audio
            F.linear(x, square)
        F.linear(x, widen)
        F.linear(widened, narrow)

    found = [_one_forward(block, config.num_layers, device) for _ in range(1 + runs)][1:]
    attended, linear = (statistics.median(times) for times in zip(*found, strict=True))
    return {"tokens": tokens, "attention": attended, "linear": linear, "total": attended + linear}


def _one_forward(block: Callable[[Callable[[], None]], None], layers: int, device: torch.device) -> tuple[float, float]:
    """Milliseconds of the attention and of the linear layers of ``layers`` blocks on the device's clock."""
    marks: list[Any] = []

    def mark() -> None:
        if device.type == "cuda":
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record()
        else:
            marks.append(time.perf_counter())

    mark()
    for _ in range(layers):
        block(mark)
    mark()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        times = [begin.elapsed_time(end) for begin, end in pairwise(marks)]
    else:
        times = [1000 * (end - begin) for begin, end in pairwise(marks)]
    return sum(times[1::2]), sum(times[::2])


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


def milliseconds(run: Callable[[], Any], device: torch.device) -> float:
    """One run, from an idle device until its result is there: what the host adds counts."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - begin)
