"""Audio attention of a block on face tokens, with soft masks and for two speakers, against the same without a mask.

    python benchmarks/audio_faces.py [--presets humo-1.7b humo-17b] [--branches 4] [--json FILE]

480x832 with 97 frames and one reference image: 26 latent frames of 1560 tokens. A face is a rectangle that moves from
frame to frame; the reference frame always counts as a whole. "eager" is LayerNorm, audio attention and residual in
plain PyTorch. "fused" is what lies between text attention and feed-forward; its time without audio is taken off, so
that rows say what the audio adds. "share" is of the same block's audio without a mask; for 15 % face tokens 0.35 is the
goal. "error" compares a row that gathers with the dense computation under the same mask; it is 0 where both add up in
the same order. "moves" are ways to fetch 15 % of the tokens and to put them back, alone. Random weights and inputs.
Each row is a recorded graph, so that its launches do not count; the L2 cache is overwritten before every run, and the
rows of a block take turns. A row that fails is reported and the others go on. JSON last.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_block import make_dit
from device_clock import single_run
from reporting import hand_over, headline, report_of
from torch import Tensor

from humo_rt.config import preset
from humo_rt.model.attention import KeyValue
from humo_rt.model.face_tokens import FaceTokens, gather_face_tokens
from humo_rt.runtime.fused_block import Carried, FusedBlock
from humo_rt.runtime.fusing import fuse
from humo_rt.runtime.matmul_backends import AUTO, choose, use_matmul

FRAMES, ROWS, COLUMNS = 26, 30, 52
SILENT = "no audio"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement: ``share`` of the tokens of a video frame is face, for each of ``speakers``."""

    name: str
    share: float | None = None
    speakers: int = 1
    gathered: bool = False


CASES = (
    Row(name="no mask"),
    Row(name="soft mask, dense", share=0.15),
    Row(name="15 % face tokens", share=0.15, gathered=True),
    Row(name="30 % face tokens", share=0.3, gathered=True),
    Row(name="50 % face tokens", share=0.5, gathered=True),
    Row(name="80 % face tokens", share=0.8, gathered=True),
    Row(name="2 speakers, dense", share=0.15, speakers=2),
    Row(name="2 speakers, 15 % face tokens each", share=0.15, speakers=2, gathered=True),
)


def main() -> None:
    args = parse_arguments()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("audio_faces finds no NVIDIA GPU: add --device cpu --presets nano for a trial run")
    with torch.no_grad():
        results = [row for name in args.presets for row in measure(name, args, device)]
    report = report_of(device, branches=args.branches, results=results)
    print(f"{headline(report)}: {FRAMES} frames of {ROWS * COLUMNS} tokens")
    for row in results:
        name = f"{row['preset']} {row['block']} {row['case']}"
        if row["block"] == "moves" and "failure" not in row:
            print(f"{name:52} {row['median']:8.3f} ms, {row['gb_per_second']:.0f} GB/s")
            continue
        if "failure" in row:
            print(f"{name:52} failed: {row['failure']}")
            continue
        error = f"error {row['error']:.1e}" if "error" in row else ""
        share = f"share {row['share']:.2f}" if "share" in row else ""
        print(f"{name:52} {row['median']:8.3f} ms, audio {row['added']:8.3f} ms, {share} {error}")
    hand_over(report, args.json)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["humo-1.7b", "humo-17b"])
    parser.add_argument("--branches", type=int, default=4, help="guidance branches in the one forward")
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, help="file for the report")
    return parser.parse_args()


def measure(name: str, args: argparse.Namespace, device: torch.device) -> Iterator[dict[str, Any]]:
    """The rows of one width, those of the eager block first."""
    config = replace(preset(name).dit, num_layers=1)
    dit = make_dit(config, device)
    x_BQD = torch.randn(args.branches, FRAMES * ROWS * COLUMNS, config.dim, device=device)
    y_BQD = torch.randn(x_BQD.shape, device=device, dtype=torch.bfloat16)
    shift_B1D, scale_B1D = torch.randn(2, args.branches, 1, config.dim, device=device) / 8
    block = dit.blocks[0]

    def eager(audio: KeyValue | None, faces: Tensor | FaceTokens | None, x: Tensor = x_BQD) -> Tensor:
        return x if audio is None else block.audio_cross_attn_wrapper.add_to(x, audio, faces)

    def fused(audio: KeyValue | None, faces: Tensor | FaceTokens | None, x: Tensor = x_BQD) -> Tensor:
        return block._heard(Carried(x, y_BQD), audio, faces, shift_B1D, scale_B1D)[0]

    for kind, run in (("eager", eager), ("fused", fused)):
        if kind == "fused":
            use_matmul(fuse(dit), choose(AUTO, device, torch.bfloat16, config.dim))
            assert isinstance(block, FusedBlock)
        yield from measure_block({"preset": name, "block": kind}, run, block, x_BQD, args.runs)
    yield from measure_moves(name, x_BQD, args.runs)


def measure_block(
    named: dict[str, str], run: Callable[..., Tensor], block: Any, x_BQD: Tensor, runs: int
) -> list[dict[str, Any]]:
    """Rows of all cases, which take turns, so that a change of the card's clock meets all of them."""
    pool = torch.cuda.graph_pool_handle() if x_BQD.is_cuda else None  # all compute in the same memory
    clocks = {SILENT: clock_of(partial(run, None, None), x_BQD.device, pool)}
    rows: list[dict[str, Any]] = []
    for case in CASES:
        rows.append({**named, "case": case.name})
        try:
            numbers, work = prepared(case, run, block, x_BQD)
            clocks[case.name] = clock_of(work, x_BQD.device, pool)
        except RuntimeError as error:  # out of memory, a kernel that does not compile
            rows[-1]["failure"] = str(error).splitlines()[0]
        else:
            rows[-1] |= numbers
    times: dict[str, list[float]] = {case: [] for case in clocks}
    for _ in range(runs):
        for case, clock in clocks.items():
            times[case].append(clock())
    silent = statistics.median(times[SILENT])
    for row in rows:
        if "failure" not in row:
            of_row = times[row["case"]]
            row |= {"median": statistics.median(of_row), "fastest": min(of_row), "slowest": max(of_row)}
            row["added"] = row["median"] - silent
            if "added" in rows[0]:  # the first case has no mask
                row["share"] = row["added"] / rows[0]["added"]
    return rows


def measure_moves(name: str, x_BQD: Tensor, runs: int) -> Iterator[dict[str, Any]]:
    """Gathering and scattering rows of 15 % of the tokens in several ways; each row is read once and written once."""
    weight = make_weights(Row(name="", share=0.15, gathered=True), x_BQD.shape[0], x_BQD.device)
    tokens = torch.cat([group.tokens_M for group in gather_face_tokens(weight, frames=FRAMES)])
    batch, per_video = x_BQD.shape[:2]
    flat = (torch.arange(batch, device=tokens.device)[:, None] * per_video + tokens).flatten()
    rows_BMD = x_BQD.index_select(1, tokens)
    x_ND, rows_ND = x_BQD.flatten(0, 1), rows_BMD.flatten(0, 1)
    ways: dict[str, Callable[[], Any]] = {
        "index_select of axis 1": lambda: x_BQD.index_select(1, tokens),
        "index_select of axis 0": lambda: x_ND.index_select(0, flat),
        "indexing of axis 1": lambda: x_BQD[:, tokens],
        "indexing of axis 0": lambda: x_ND[flat],
        "index_copy_ of axis 1": lambda: x_BQD.index_copy_(1, tokens, rows_BMD),
        "index_copy_ of axis 0": lambda: x_ND.index_copy_(0, flat, rows_ND),
        "index_put_ of axis 0": lambda: x_ND.index_put_((flat,), rows_ND),
        "index_add_ of axis 1": lambda: x_BQD.index_add_(1, tokens, rows_BMD),
    }
    for way, run in ways.items():
        row = {"preset": name, "block": "moves", "case": way}
        try:
            clock = clock_of(run, x_BQD.device)
            median = statistics.median(clock() for _ in range(runs))
        except RuntimeError as error:
            yield row | {"failure": str(error).splitlines()[0]}
            continue
        yield row | {"median": median, "gb_per_second": 2 * rows_BMD.nbytes / median / 1e6}


def prepared(
    case: Row, run: Callable[..., Tensor], block: Any, x_BQD: Tensor
) -> tuple[dict[str, Any], Callable[[], Tensor]]:
    """What is known of a case before it is timed, and what to time."""
    audio, faces = make_audio(case, block, x_BQD.shape[0]), None
    numbers: dict[str, Any] = {}
    if case.share is not None:
        weight = make_weights(case, x_BQD.shape[0], x_BQD.device)
        faces = weight[..., None]
        if case.gathered:
            dense, faces = faces, gather_face_tokens(weight, frames=FRAMES)
            expected = run(audio, dense) - run(None, None)
            found = run(audio, faces, x_BQD.clone()) - run(None, None)
            numbers["tokens"] = sum(len(group.tokens_M) for group in faces) / x_BQD.shape[1]
            numbers["error"] = ((found - expected).norm() / expected.norm()).item()
            del expected, found
    return numbers, partial(run, audio, faces)


def make_audio(case: Row, block: Any, branches: int) -> KeyValue:
    attention = block.audio_cross_attn_wrapper.audio_cross_attn
    weight = attention.k.weight
    tokens = torch.randn(case.speakers * branches, FRAMES, 16, weight.shape[1], device=weight.device)
    kv = attention.project(tokens)
    if case.speakers == 1:
        return kv
    return KeyValue(*(part.unflatten(0, (case.speakers, branches)) for part in kv))


def make_weights(case: Row, branches: int, device: torch.device) -> Tensor:
    """(B, Q), of several speakers (P, B, Q): a rectangle that moves, each speaker's in a part of its own."""
    mask = torch.zeros(case.speakers, FRAMES, ROWS, COLUMNS)
    part = COLUMNS // case.speakers
    height = min(ROWS, round((case.share * ROWS * COLUMNS) ** 0.5))
    width = min(part, round(case.share * ROWS * COLUMNS / height))
    for speaker in range(case.speakers):
        for frame in range(FRAMES - 1):
            left = speaker * part + frame % (part - width + 1)
            top = frame % (ROWS - height + 1)
            mask[speaker, frame, top : top + height, left : left + width] = 1
    if not case.gathered and case.speakers == 1:
        mask = torch.rand_like(mask)
    mask[0, -1] = 1
    weight = mask.flatten(1)[:, None].repeat(1, branches, 1).to(device)
    return weight if case.speakers > 1 else weight[0]


def clock_of(run: Callable[[], Any], device: torch.device, pool: tuple[int, int] | None = None) -> Callable[[], float]:
    """Each call of it is a single run, in milliseconds: on the device's clock and with a cold L2."""
    if device.type != "cuda":
        run()
        return partial(_host_milliseconds, run)
    once = single_run(run, pool)
    return lambda: once() / 1000


def _host_milliseconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
