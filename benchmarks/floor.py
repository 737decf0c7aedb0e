"""The time that no runtime can beat but by computing less: the attention and the matrix products of one forward alone,
on this machine.

Fused blocks do compute less where they can: audio's output projection is folded into its values. It counts here as the
layer that it is, so that floors of all runtimes compare. Knows the shapes of the DiT's layers; reads and writes
nothing.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humo_rt.config import DiTConfig
from humo_rt.kernels.quantize_rows import quantize_rows
from humo_rt.runtime.float8_attention import attend_quantized, float8_attention, quantized_parts
from humo_rt.runtime.float8_linear import Float8Linear
from humo_rt.runtime.matmul_kernels import QUACK, TORCH, linear, taken_by_quack
from humo_rt.runtime.precision import EXACT, FP8, float8_layers

QKV = "self_attn.qkv"
# The layers of a block in the model's order, by the names that the precision tiers know; attention follows the first.
SQUARE_LAYERS = ("self_attn.o", "cross_attn.q", "cross_attn.o", "audio_cross_attn.q", "audio_cross_attn.o")
LAYERS = (QKV, *SQUARE_LAYERS, "ffn.0", "ffn.2")

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
Block = Callable[[int, Callable[[], None]], None]  # runs the block of a number; calls the other around its attention


def measure_floor(
    config: DiTConfig,
    shape: torch.Size | tuple[int, ...],
    runs: int,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.bfloat16,
    attention: Attention = F.scaled_dot_product_attention,
    matmul_backend: str = TORCH,
    precision: str = EXACT,
) -> dict[str, Any]:
    """Milliseconds of self-attention and of all linear layers of every block; medians over ``runs`` forwards.

    They run back to back in the model's order, so that the card is as warm, and its clock as low, as in a generation: a
    product alone on a cool card is up to a tenth faster than the same product in a step. On a GPU they are recorded and
    replayed, as small models are: launched one by one, a small one's would be measured by their launches.

    ``shape``: of the latents (B, C, T, H, W), reference frames included. ``attention`` takes q, k and v, (B, H, Q, K)
    each; give the model's own, and its ``matmul_backend``, so that it is held to its own kernels. With ``precision``
    "fp8" the layers of that tier are products in e4m3. What is read in e4m3, by products and by attention in float8, is
    quantised before: the runtime does that in passes it makes anyway.
    """
    branches, tokens = shape[0], token_count(config, shape)
    kinds = {"device": device, "dtype": dtype}
    products = _products(config, (branches, tokens), precision == FP8, matmul_backend, kinds)
    # The heads lie as a projection leaves them.
    q, k, v = torch.randn(3, branches, tokens, config.num_heads, config.head_dim, **kinds).transpose(2, 3)
    attend = _attention_alone(attention, q, k, v)
    count, float8 = config.num_layers, precision == FP8
    reached = [float8_layers(number, count) if float8 else set() for number in range(count)]

    def block(number: int, mark: Callable[[], None]) -> None:
        first, *others = (products[layer, layer in reached[number]] for layer in LAYERS)
        first()
        mark()
        attend()
        mark()
        for product in others:
            product()

    forward = _recorded(block, count, device) if device.type == "cuda" else partial(_one_forward, block, count)
    found = [forward() for _ in range(1 + runs)][1:]
    attended, multiplied = (statistics.median(times) for times in zip(*found, strict=True))
    return {"tokens": tokens, "attention": attended, "linear": multiplied, "total": attended + multiplied}


def _products(
    config: DiTConfig, rows: tuple[int, int], float8: bool, matmul_backend: str, kinds: dict[str, Any]
) -> dict[tuple[str, bool], Callable[[], Tensor]]:
    """The product of every layer over so many rows (branches, tokens), by its name and whether it is in e4m3.

    Layers of one shape share their weight and their input. PyTorch's are without a bias, which costs it a tenth.
    """
    dim, ffn = config.dim, config.ffn_dim
    widths = {QKV: (dim, 3 * dim), "ffn.0": (dim, ffn), "ffn.2": (ffn, dim)} | dict.fromkeys(SQUARE_LAYERS, (dim, dim))
    inputs = {width: torch.randn(*rows, width, **kinds) for width in (dim, ffn)}
    by_shape: dict[tuple[int, int], dict[bool, Callable[[], Tensor]]] = {}
    for width, result in set(widths.values()):
        layer = nn.Linear(width, result, **kinds).requires_grad_(False)
        nn.init.normal_(layer.weight, std=width**-0.5)
        plain = partial(F.linear, inputs[width], layer.weight)
        if taken_by_quack(inputs[width], layer.weight, matmul_backend):
            plain = partial(linear, inputs[width], layer.weight, layer.bias, QUACK)
        runs = by_shape[width, result] = {False: plain}
        if float8:
            runs[True] = partial(Float8Linear([layer]), quantize_rows(inputs[width]))
    return {(name, kind): run for name, shape in widths.items() for kind, run in by_shape[shape].items()}


def _attention_alone(attention: Attention, q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor) -> Callable[[], Any]:
    """``attention`` without the passes that quantise for it."""
    if attention is not float8_attention:
        return partial(attention, q_BHLK, k_BHLK, v_BHLK)
    *parts, _ = quantized_parts(q_BHLK, k_BHLK, v_BHLK)
    return partial(attend_quantized, *parts)


def _one_forward(block: Block, layers: int) -> tuple[float, float]:
    """Milliseconds of the attention and of the linear layers of ``layers`` blocks."""
    marks: list[float] = []
    _run(block, layers, lambda: marks.append(time.perf_counter()))
    return _parts([1000 * (end - begin) for begin, end in pairwise(marks)])


def _recorded(block: Block, layers: int, device: torch.device) -> Callable[[], tuple[float, float]]:
    """The same as a CUDA graph, timed by the GPU."""
    marks: list[torch.cuda.Event] = []

    def mark() -> None:
        marks.append(torch.cuda.Event(enable_timing=True, external=True))
        marks[-1].record()

    def forward() -> tuple[float, float]:
        graph.replay()
        torch.cuda.synchronize(device)
        return _parts([begin.elapsed_time(end) for begin, end in pairwise(marks)])

    _run(block, layers, lambda: None)  # what compiles does so outside the recording
    torch.cuda.synchronize(device)
    gc.collect()  # what the collector frees while a graph is recorded may end it
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        _run(block, layers, mark)
    return forward


def _run(block: Block, layers: int, mark: Callable[[], None]) -> None:
    mark()
    for number in range(layers):
        block(number, mark)
    mark()


def _parts(times: list[float]) -> tuple[float, float]:
    """Of attention and of linear layers: a block marks where its attention begins and ends."""
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
