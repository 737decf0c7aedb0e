"""Which tile sizes and warps of the Triton kernels are fastest on this card: what the defaults in the code come from.

    python benchmarks/tune_tiles.py [--op gate_residual_norm] [--preset humo-1.7b]

Every candidate replaces the function that chooses the tiles of its op and runs on a real workload, with a cold L2 as in
bench_kernels. A candidate that does not compile is reported. Prints microseconds and the share of a copy's bandwidth,
the fastest first, then the default.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import statistics
import sys
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

import torch
from bench_kernels import copy_bytes_per_second
from device_clock import microseconds

from humo_rt.kernels import registry

PARTS = {"BLOCK": [256, 512, 1024], "num_warps": [2, 4, 8]}
HEADS = {"GROUP": [2, 4, 8], "num_warps": [1, 2, 4, 8]}


class Space(NamedTuple):
    """What to try instead of each answer of ``chooser``, a function in the Triton code of the op ``home``, by default
    the op itself; and of that module's constants, which have names of their own."""

    values: dict[str, list[int]]
    chooser: str = "tile"
    home: str | None = None


SPACES = {
    "adaln_modulate": Space(PARTS),
    "adaln_modulate_quantize": Space(PARTS, home="adaln_modulate"),
    "gather_norm": Space(PARTS, home="adaln_modulate"),
    "residual_norm": Space(PARTS, home="gate_residual_norm"),
    "gate_residual_norm": Space(PARTS),
    "gate_residual_norm_quantize": Space(PARTS, home="gate_residual_norm"),
    "scatter_residual_norm": Space(PARTS, home="gate_residual_norm"),
    "gelu_quantize": Space(PARTS),
    "quantize_rows": Space(PARTS),
    "quantize_tensor": Space(  # the first pass
        {"TILES": [8, 16, 32, 64], "ROWS": [4, 8, 16], "num_warps": [1, 2, 4]}, chooser="column_tile"
    ),
    "qk_norm_rope": Space(HEADS),
    "qk_norm_rope_quantize": Space(HEADS, home="qk_norm_rope"),
    "guided_update": Space({"BLOCK": [256, 512, 1024, 2048], "num_warps": [2, 4, 8]}),
    "audio_face_attention": Space(
        {"BLOCK_M": [16, 32, 64], "BLOCK_D": [128, 256, 512], "num_warps": [2, 4, 8]}, chooser="blocks"
    ),
    "audio_face_probabilities": Space(
        {"BLOCK_M": [16, 32, 64], "BLOCK_D": [256, 512], "num_warps": [2, 4, 8]}, chooser="blocks"
    ),
    "text_attention": Space({"BLOCK_M": [64, 128], "TILES": [4, 8, 16], "num_warps": [4, 8]}, chooser="few_blocks"),
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
    space = SPACES[op]
    run = registry.implementation(op, "triton")
    home = importlib.import_module(f"humo_rt.kernels.{space.home or op}.triton_impl")
    sizes = next(sizes for workload, sizes in cases.WORKLOADS.items() if workload.startswith(preset))
    inputs = cases.make_inputs(sizes, torch.bfloat16, torch.device("cuda"))
    moved, chosen, found = cases.bytes_moved(*inputs), getattr(home, space.chooser), []

    def measured(changes: dict[str, int]) -> float:
        constants = {name: value for name, value in changes.items() if hasattr(home, name)}
        tiles = {name: value for name, value in changes.items() if name not in constants}

        def choose(*args: object) -> dict[str, int] | None:
            own = chosen(*args)
            return None if own is None else own | tiles  # None: another kernel takes these inputs

        with mock.patch.multiple(home, **constants, **{space.chooser: choose}):
            return statistics.median(microseconds(run, inputs))

    for changes in ({}, *candidates(space.values)):
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


if __name__ == "__main__":
    main()
