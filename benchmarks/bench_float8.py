"""The parts of precision "fp8" alone: matrix products in e4m3 against bf16, and attention in e4m3 against bf16.

    python benchmarks/bench_float8.py [--preset humo-1.7b] [--json FILE]

Needs an NVIDIA GPU with e4m3. Products of the shapes of a block, with the rows quantised before and with the pass that
quantises them, with and without fast accumulation; attention with everything quantised before, and as a drop-in that
quantises itself. TFLOP/s of medians, and the relative error against float64 on some rows (products) or against bf16
(attention). A part that fails is reported and does not stop the others. Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from device_clock import microseconds
from reporting import hand_over, report_of
from torch import Tensor, nn

from humo_rt.config import DiTConfig, preset
from humo_rt.kernels.float8 import FLOAT8, QuantizedRows
from humo_rt.kernels.qk_norm_rope_quantize import bound_scale
from humo_rt.kernels.quantize_rows import quantize_rows
from humo_rt.kernels.quantize_tensor import quantize_tensor
from humo_rt.runtime import attention_backends, float8_attention, float8_linear
from humo_rt.runtime.float8_linear import Float8Linear

CUDA = torch.device("cuda")
BF16 = torch.bfloat16
TOKENS = 40_560  # 97 frames of 480x832 with one reference
CHECKED_ROWS = 64

Part = tuple[str, Callable[[], Tensor], Tensor]  # name, what to time, what its result should be


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="humo-1.7b")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--json", type=Path, help="file for the report")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("bench_float8 needs an NVIDIA GPU: torch finds none here")
    config = preset(args.preset).dit
    with torch.no_grad():
        rows = [row for width, result in shapes(config) for row in products(args.tokens, width, result)]
        rows += attentions(args.tokens, config)
    report = report_of(CUDA, results=rows)
    for row in rows:
        numbers = row.get("failed") or f"{row['median']:9.1f} us {row['tflops']:7.0f} TFLOP/s, error {row['error']:.2e}"
        print(f"{row['part']:28} {row['name']:34} {numbers[:200]}")
    hand_over(report, args.json)


def shapes(config: DiTConfig) -> list[tuple[int, int]]:
    """Inputs and outputs of the different products of a block."""
    dim, ffn = config.dim, config.ffn_dim
    return [(dim, 3 * dim), (dim, dim), (dim, ffn), (ffn, dim)]


def products(tokens: int, width: int, result: int) -> Iterator[dict[str, Any]]:
    layer = nn.Linear(width, result, device=CUDA, dtype=BF16)
    float8 = Float8Linear([layer])
    x = torch.randn(tokens, width, device=CUDA, dtype=BF16)
    rows = quantize_rows(x)
    truth = F.linear(x[:CHECKED_ROWS].double(), layer.weight.double(), layer.bias.double())

    def accumulating(fast: bool, x: Tensor | QuantizedRows) -> Tensor:
        float8_linear.FAST_ACCUMULATION = fast
        return float8(x)

    part, work = f"product {width} -> {result}", 2 * tokens * width * result
    yield timed(part, "bf16", lambda: layer(x), work, truth)
    yield timed(part, "e4m3, fast accumulation", lambda: accumulating(True, rows), work, truth)
    yield timed(part, "e4m3, float32 accumulation", lambda: accumulating(False, rows), work, truth)
    yield timed(part, "e4m3, rows quantised in a pass", lambda: accumulating(True, x), work, truth)
    float8_linear.FAST_ACCUMULATION = True


def attentions(tokens: int, config: DiTConfig) -> list[dict[str, Any]]:
    heads, head_dim = config.num_heads, config.head_dim
    qkv = torch.randn(1, tokens, 3 * config.dim, device=CUDA, dtype=BF16)
    q, k, v = (x.unflatten(-1, (heads, head_dim)).transpose(1, 2) for x in qkv.chunk(3, dim=-1))
    work = 4 * tokens**2 * config.dim
    plain = attention_backends.choose("auto", CUDA, BF16, head_dim)
    exact = attention_backends.self_attention(q, k, v, backend=plain)
    rows = [timed("attention", plain, lambda: attention_backends.self_attention(q, k, v, backend=plain), work, exact)]

    def drop_in() -> Tensor:
        return float8_attention.float8_attention(q, k, v)

    rows.append(timed("attention", "cudnn-fp8, quantises itself", drop_in, work, exact))
    bound = bound_scale(torch.ones(config.dim, device=CUDA))
    padding = float8_attention.key_padding(tokens)
    v8, scale_v, _ = quantize_tensor(qkv.chunk(3, dim=-1)[2], padding=padding)
    q8, k8 = (
        (F.pad(x.transpose(1, 2), (0, 0, 0, 0, 0, extra)) / bound).to(FLOAT8) for x, extra in ((q, 0), (k, padding))
    )
    parts = ((q8, bound), (k8, bound), (v8.unflatten(2, (heads, head_dim)), scale_v))

    def quantised_before() -> Tensor:
        values, scale = float8_attention.attend_quantized(*parts)
        return (values.float() * scale).transpose(1, 2)

    error = timed("attention", "", quantised_before, work, exact)
    alone = timed(
        "attention", "cudnn-fp8, quantised before", lambda: float8_attention.attend_quantized(*parts)[0], work
    )
    rows.append(alone | {"error": error.get("error")})
    return rows


def timed(part: str, name: str, run: Callable[[], Tensor], work: int, truth: Tensor | None = None) -> dict[str, Any]:
    row: dict[str, Any] = {"part": part, "name": name}
    try:
        found = run()
        if truth is not None:
            found = found[: len(truth)] if found.ndim == 2 else found
            row["error"] = ((found.double() - truth.double()).norm() / truth.double().norm()).item()
        times = microseconds(run, ())
        median = statistics.median(times)
        return row | {"median": median, "spread": max(times) - min(times), "tflops": work / median / 1e6}
    except Exception as error:  # noqa: BLE001  one that does not run must not hide the others
        return row | {"failed": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main()
