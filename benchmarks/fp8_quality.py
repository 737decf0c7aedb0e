"""What the precision tier "fp8" errs and saves on full-size shapes: per block, per branch, guided, and per step.

    python benchmarks/fp8_quality.py [--preset humo-1.7b] [--height 480 --width 832 --num-frames 97] [--branches 4]
    python benchmarks/fp8_quality.py --preset humo-17b --exact-layers '0.ffn.*,-1.ffn.*' '*.self_attn.o'

Every variant is compared with exact fused blocks of the same weights, then the variants take turns. Errors are
relative, norm over norm: of a block's output and of what it adds, given the exact input; of each branch's velocity; of
the guided velocity. Random weights and inputs: activations of a trained model have larger outliers. A variant that
fails is reported and does not stop the others. The report is saved whenever it grows. Prints tables, then one line of
JSON. Videos: ``fp8_video.py``.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bench_block import TIMESTEP, branch_names, make_conditions, make_dit, make_noise
from floor import milliseconds
from own_process import announce
from reporting import hand_over, headline, report_of, save
from torch import Tensor

from humo_rt.config import ModelConfig, preset
from humo_rt.model.dit import HumoDiT
from humo_rt.runtime import attention_backends
from humo_rt.runtime.attention_backends import AUTO, CHOICES, CUDNN_FP8
from humo_rt.runtime.float8_block import fuse_float8
from humo_rt.runtime.fused_block import Carried
from humo_rt.runtime.fusing import fuse
from humo_rt.runtime.matmul_backends import choose, use_matmul
from humo_rt.runtime.precision import EXACT_LAYERS, check_precision
from humo_rt.sampling.branches import GuidedModel
from humo_rt.sampling.guidance import guidance_table


class Variant(NamedTuple):
    dit: HumoDiT
    attention: str


def main() -> None:
    args = parse_arguments()
    device, config = torch.device(args.device), preset(args.preset)
    dit_config = dataclasses.replace(config.dit, num_layers=args.layers or config.dit.num_layers)
    config = dataclasses.replace(config, dit=dit_config)
    if device.type == "cuda":
        check_precision("fp8", device, torch.bfloat16, dit_config)
    with torch.no_grad():
        variants, failed = make_variants(config, args, device)
        products = next(iter(variants.values())).dit.blocks[0].matmul_backend
        report = report_of(device, layers=dit_config.num_layers, matmul_backend=products, results=[])
        for rows in measure(variants, config, args, device):
            report["results"] = [*rows, *failed]
            save(report, args.json)
    print_table(report)
    hand_over(report, args.json)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="humo-1.7b")
    parser.add_argument("--layers", type=int, help="run this many blocks only")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--num-frames", type=int, default=97)
    parser.add_argument("--branches", type=int, help="the first so many of the model's guidance; default: all")
    parser.add_argument("--branch-batch-size", type=int, help="branches in one forward; default: all")
    parser.add_argument(
        "--attention-backend", choices=CHOICES, default=AUTO, help="of exact, and of fp8 without cuDNN's"
    )
    parser.add_argument(
        "--exact-layers",
        nargs="*",
        default=[],
        help="more variants: patterns of layers that stay exact, commas between them; 'none' for no layer",
    )
    parser.add_argument(
        "--no-blocks", dest="blocks", action="store_false", help="without errors of single blocks, which take memory"
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the report")
    return parser.parse_args()


def make_variants(
    config: ModelConfig, args: argparse.Namespace, device: torch.device
) -> tuple[dict[str, Variant], list[dict[str, Any]]]:
    """Models of the same weights, exact first; and rows for what this machine cannot run.

    The float8 ones are made first: each has its wide weights only until it is quantised.
    """
    head_dim = config.dit.head_dim
    plain = attention_backends.choose(args.attention_backend, device, torch.bfloat16, head_dim)
    reason = attention_backends.unavailable(CUDNN_FP8, device, torch.bfloat16, head_dim)
    failed = [] if reason is None else [{"variant": f"fp8 {CUDNN_FP8}", "failed": reason}]
    made = {}
    for kept in (None, *args.exact_layers):
        patterns = {None: EXACT_LAYERS, "none": ()}.get(kept, (kept or "").split(","))
        dit = fuse_float8(make_dit(config.dit, device), tuple(patterns))
        name = "fp8" if kept is None else f"fp8 but {kept}"
        made[name] = Variant(dit, plain)
        if reason is None:
            made[f"{name} {CUDNN_FP8}"] = Variant(dit, CUDNN_FP8)
    exact = fuse(make_dit(config.dit, device))
    for dit in (exact, *(variant.dit for variant in made.values())):
        use_matmul(dit, choose(AUTO, device, torch.bfloat16, config.dit.dim))
    variants = {"exact": Variant(exact, plain)}
    if reason is None:
        variants[f"exact {CUDNN_FP8}"] = Variant(exact, CUDNN_FP8)
    return variants | made, failed


def measure(
    variants: dict[str, Variant], config: ModelConfig, args: argparse.Namespace, device: torch.device
) -> Iterator[list[dict[str, Any]]]:
    """The rows of all variants, each time that there is more in them: errors, then a round of times."""
    noise = make_noise(args, device)
    conditions = make_conditions(config.dit, noise)
    names = branch_names(config, args.branches)
    weights = guidance_table(config, "TIA").at(TIMESTEP)
    steps: dict[HumoDiT, GuidedModel] = {}
    for dit in dict.fromkeys(variant.dit for variant in variants.values()):
        steps[dit] = GuidedModel(dit, conditions, noise, branch_batch_size=args.branch_batch_size)
        steps[dit].prepare([dict.fromkeys(names, 1.0)])

    def velocities(name: str) -> Tensor:
        attention_backends.use_attention(variants[name].dit, variants[name].attention)
        return steps[variants[name].dit].branches(noise, TIMESTEP, names)

    expected = velocities("exact")
    rows: dict[str, dict[str, Any]] = {name: {"variant": name} for name in variants}
    for name, row in rows.items():
        announce(f"errors of {name}")
        try:
            found = velocities(name)
            row["branches"] = {branch: relative(a, b) for branch, a, b in zip(names, found, expected, strict=True)}
            row["guided"] = relative(guided(found, names, weights), guided(expected, names, weights))
            if name != "exact" and args.blocks:
                row["blocks"] = block_errors(variants["exact"], variants[name], lambda: velocities("exact"))
        except Exception as error:  # noqa: BLE001  one that does not run must not hide the others
            row["failed"] = f"{type(error).__name__}: {error}"
        yield list(rows.values())
    times = {name: [] for name, row in rows.items() if "failed" not in row}
    for _ in range(args.runs):
        for name, taken in times.items():
            taken.append(milliseconds(lambda name=name: velocities(name), device))
            announce(f"{name}: {taken[-1]:.1f} ms")
        for name, taken in times.items():
            rows[name] |= {"median": statistics.median(taken), "fastest": min(taken), "slowest": max(taken)}
            rows[name]["exact_over_this"] = statistics.median(times["exact"]) / rows[name]["median"]
        yield list(rows.values())


def block_errors(exact: Variant, other: Variant, forward: Any) -> list[dict[str, float]]:
    """For every block what ``other`` makes of the input that the exact block has in a forward: errors of the block's
    output, and of what the block adds to its input."""
    found: list[dict[str, float]] = []
    given: list[Tensor | Carried] = []

    def remember(args: tuple[Any, ...]) -> None:
        given[:] = [args[0].copy() if isinstance(args[0], Carried) else args[0]]  # the block takes its own out

    def compare(index: int, args: tuple[Any, ...], output: tuple[Any, Tensor]) -> None:
        before, after = stream(given[0]), stream(output[0])
        attention_backends.use_attention(other.dit, other.attention)
        try:  # past the hooks: the DiT may be the same
            actual = stream(other.dit.blocks[index].forward(given[0], *args[1:])[0])
        finally:
            attention_backends.use_attention(exact.dit, exact.attention)
        if len(before) != len(after):  # the first block makes a stream for every sample from those they share
            before = before.index_select(0, args[6])
        before, actual = (x[:, : after.shape[1]] for x in (before, actual))  # the last may leave reference frames out
        found.append({"output": relative(actual, after), "added": relative(actual - before, after - before)})

    hooks = [
        block.register_forward_hook(lambda _, args, output, index=index: compare(index, args, output))
        for index, block in enumerate(exact.dit.blocks)
    ]
    hooks += [block.register_forward_pre_hook(lambda _, args: remember(args)) for block in exact.dit.blocks]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def stream(x: Tensor | Carried) -> Tensor:
    return x.copy().take()[0] if isinstance(x, Carried) else x


def guided(velocities: Tensor, names: list[str], weights: dict[str, float]) -> Tensor:
    return sum(weights[name] * velocity for name, velocity in zip(names, velocities, strict=True))


def relative(x: Tensor, truth: Tensor) -> float:
    return ((x - truth).norm() / truth.norm()).item()


def print_table(report: dict[str, Any]) -> None:
    print(f"{headline(report)}, cuDNN {report['versions'].get('cudnn')}, {report['layers']} blocks")
    for row in report["results"]:
        if "failed" in row:
            print(f"{row['variant']:32} {row['failed'][:160]}")
            continue
        branches = " ".join(f"{name} {error:.2e}" for name, error in row["branches"].items())
        spread = f"{row['fastest']:.1f}-{row['slowest']:.1f}"
        print(f"{row['variant']:32} {row['median']:9.1f} ms ({spread:>17}) {row['exact_over_this']:6.3f}x, ", end="")
        print(f"guided {row['guided']:.2e}, {branches}")
    for row in report["results"]:
        if "blocks" in row:
            print(f"{row['variant']}, per block: " + " ".join(f"{error['added']:.1e}" for error in row["blocks"]))


if __name__ == "__main__":
    main()
