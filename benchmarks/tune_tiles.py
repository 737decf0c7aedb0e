"""Which tile sizes and warps of the Triton kernels are fastest on this card: what the defaults in the code come from.

    python benchmarks/tune_tiles.py [--op gate_residual_norm] [--preset humo-1.7b]

Every candidate replaces the function that chooses the tiles of its op and runs on one branch of a real workload, with a
cold L2 as in bench_kernels. A candidate that does not compile is reported. Prints microseconds and the share of a
copy's bandwidth, the fastest first, then the default.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import itertools
import statistics
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from bench_kernels import copy_bytes_per_second
from device_clock import microseconds

# The function that chooses, and what to try instead of each of its answers.
SPACES: dict[str, tuple[str, dict[str, list[int]]]] = {
    "adaln_modulate": ("tile", {"ROWS": [1, 2, 4], "num_warps": [2, 4, 8, 16]}),
    "gate_residual_norm": ("tile", {"ROWS": [1, 2, 4], "num_warps": [2, 4, 8, 16]}),
    "gelu_quantize": ("tile", {"ROWS": [1], "num_warps": [4, 8, 16, 32]}),
    "quantize_rows": ("tile", {"ROWS": [1, 2, 4], "num_warps": [2, 4, 8, 16]}),
    "quantize_tensor": ("tile", {"ROWS": [1, 2, 4], "num_warps": [2, 4, 8, 16]}),
    "qk_norm_rope": ("tile", {"num_warps": [2, 4, 8, 16]}),
    "audio_face_attention": ("blocks", {"BLOCK_M": [16, 32, 64], "BLOCK_D": [128, 256, 512], "num_warps": [2, 4, 8]}),
    "audio_face_probabilities": ("blocks", {"BLOCK_M": [16, 32, 64], "BLOCK_D": [256, 512], "num_warps": [2, 4, 8]}),
    "text_attention": ("blocks", {"BLOCK_M": [64, 128], "BLOCK_S": [32, 64, 128], "num_warps": [4, 8]}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", choices=SPACES, nargs="+", default=list(SPACES))
    parser.add_argument("--preset", default="humo-1.7b", help="whose first workload among the op's cases to run")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("tune_tiles needs an NVIDIA GPU: torch finds none here")
    copy = copy_bytes_per_second()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {copy / 1e12:.2f} TB/s; {args.preset}")
    for op in args.op:
        tune(op, args.preset, copy)


def tune(op: str, preset: str, copy: float) -> None:
    cases = importlib.import_module(f"humo_rt.kernels.{op}.cases")
    module = importlib.import_module(f"humo_rt.kernels.{op}.triton_impl")
    sizes = next(sizes for workload, sizes in cases.WORKLOADS.items() if workload.startswith(preset))
    inputs = cases.make_inputs(one_branch(sizes), torch.bfloat16, torch.device("cuda"))
    moved, name = cases.bytes_moved(*inputs), SPACES[op][0]
    chosen, found = getattr(module, name), []

    def measured(changes: dict[str, int]) -> float:
        with mock.patch.object(module, name, lambda *args: chosen(*args) | changes):
            return statistics.median(microseconds(module.run, inputs))

    for changes in ({}, *candidates(SPACES[op][1])):
        try:
            found.append((measured(changes), changes))
        except Exception as error:  # noqa: BLE001  too many registers or too much shared memory, in the compiler's words
            print(f"  {op} {changes}: {type(error).__name__}: {str(error)[:100]}")
    print(op)
    for median, changes in [*sorted(found, key=lambda pair: pair[0])[:8], found[0]]:
        share = 100 * moved / (median * 1e-6) / copy
        print(f"  {median:8.1f} us {share:6.1f} % of copy  {changes or 'default'}")


def candidates(space: dict[str, list[int]]) -> Iterator[dict[str, int]]:
    for values in itertools.product(*space.values()):
        yield dict(zip(space, values, strict=True))


def one_branch(sizes: Any) -> Any:
    """``sizes`` of a workload with its first branch alone."""
    if isinstance(sizes, tuple):
        return (1, *sizes[1:])
    changes = {"texts": sizes.texts[-1:]} if hasattr(sizes, "texts") else {"batch": 1}
    return dataclasses.replace(sizes, **changes)


if __name__ == "__main__":
    main()
