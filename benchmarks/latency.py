"""Time of every stage of a generation, end to end through ``Pipeline.generate``, MP4 included.

    python benchmarks/latency.py                                        # nano, on whatever is here
    python benchmarks/latency.py --preset humo-1.7b --steps 4 --branches batched sequential --baseline

Prints the seconds of every run at once, at the end a table and one line of JSON; writes that and a chart of the stages
as latency-<preset>.json and .png. Inputs are noise, never zeros; the published presets get random weights unless
--weights names others. The first run of each variant warms up and is kept apart: the cold start. Then, before anything
else is timed, the final latents of every variant are compared with the truth (``agreement``): an exact variant that
errs more than the common rule of the kernels allows makes the exit code 1, when everything is printed; of a lossy one
the error is reported. Medians are over the runs after it, in which the variants take turns and encode their inputs
anew. One more run finds them encoded: the "second call". The attention and the matrix products of one branch, alone,
take a turn among the variants: the floor, of each precision its own. Small branches may beat it together, as they fill
the card better than one; what else beats it by far shared the machine with another process while the floor was
measured, and the table says so.

--baseline is the release's order of operations: one branch at a time, plain blocks launched one operation after the
other on PyTorch's matrix products, guidance and sampler in plain PyTorch, the VAE's plain decoder. It shares with the
runtime what is kinder than the release: the attention kernel, keys and values of text and audio that are projected once
per generation, a loop that waits for nothing, and the MP4 that is written beside decoding.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from agreement import allowed_error, relative_error, with_more_digits
from floor import measure_floor
from latency_report import add_rates, branch_shape, median_floor, print_table, ratios, summary
from own_process import announce
from reporting import headline, report_of, save
from stage_chart import save_stage_chart
from torch import Tensor

from humo_rt.config import FPS, SAMPLE_RATE, TEMPORAL_STRIDE
from humo_rt.kernels import registry
from humo_rt.pipeline import Pipeline
from humo_rt.result import GenerationResult
from humo_rt.runtime.attention_backends import AUTO, CHOICES, CUDNN_FP8, choose
from humo_rt.runtime.attention_kernels import self_attention
from humo_rt.runtime.channels_last_vae import ChannelsLastVAE, use_channels_last, use_plain
from humo_rt.runtime.fusing import fuse, is_fused, unfuse
from humo_rt.runtime.matmul_backends import CHOICES as MATMUL_CHOICES
from humo_rt.runtime.matmul_kernels import TORCH
from humo_rt.runtime.precision import CHOICES as PRECISIONS
from humo_rt.runtime.precision import EXACT
from humo_rt.weights.hub import is_published
from humo_rt.weights.resolve import RANDOM

PROMPT = "A woman with long dark hair and round glasses is talking to the camera in front of a bookshelf."
# UMT5 makes 126 tokens of Wan's negative prompt. The tokenizer of random weights would make 404, one of each byte, and
# that many keys; of this it makes 126, its end included, and 96 of the prompt.
NEGATIVE_PROMPT = (2 * PROMPT)[:125]
BASELINE = "baseline"
COMPARED_STEPS = 2  # the first is at pure noise, where HuMo-17B guides by another formula than afterwards


class Variant(NamedTuple):
    """What is timed under one name. ``branches``: batched, sequential, or the baseline's way."""

    pipeline: Pipeline
    branches: str

    @property
    def lossy(self) -> bool:
        return self.pipeline.precision != EXACT or self.pipeline.attention_backend == CUDNN_FP8


def main() -> None:
    args = parse_arguments()
    pipelines, load = load_pipelines(args)
    pipeline = next(iter(pipelines.values()))
    variants = variants_of(pipelines, args)
    report: dict[str, Any] = report_of(pipeline.device)
    report |= measure(variants, pipelines, args)
    first = next(iter(report["variants"].values()))
    report["cold_start"] = {"load": load, "first_generation": first["first"]["total"]}
    add_rates(pipeline.config.dit, report["variants"], report["floors"])
    if args.baseline:
        report["ratio_to_baseline"] = ratios(report["variants"], BASELINE)
    print_table(report)
    save(report, args.json)
    title = f"{first['settings']['model']} on {headline(report)}, seconds per stage"
    save_stage_chart(args.png, {name: v["seconds"] for name, v in report["variants"].items()}, title)
    print(f"written: {args.json}, {args.png}")
    print(json.dumps(report))
    if "failed" in report["agreement"] or report["agreement"].get("exceeded"):
        sys.exit(1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--weights", help="folder, repository or 'random'; default: random, but for nano its own")
    parser.add_argument("--device")
    parser.add_argument("--dit-engine", help=".onnx or .engine file that runs instead of PyTorch's DiT")
    parser.add_argument("--attention-backend", choices=CHOICES, default=AUTO, help="default: the fastest here")
    parser.add_argument("--matmul-backend", choices=MATMUL_CHOICES, default=AUTO, help="default: the fastest here")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=[EXACT], help="several are compared")
    parser.add_argument("--offload-encoders", action="store_true", help="keep them in host memory while denoising")
    parser.add_argument("--mode", choices=["T", "TI", "TA", "TIA"], default="TIA")
    parser.add_argument("--height", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--num-frames", type=int, default=97)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--branches", nargs="+", choices=["batched", "sequential"], default=["batched"])
    parser.add_argument(
        "--baseline",
        action="store_true",
        help="also the release's order of operations, as far as it is described above",
    )
    parser.add_argument("--repeat", type=int, default=3, help="timed runs after the warm-up")
    parser.add_argument("--json", type=Path, help="file for the report; default: latency-<preset>.json")
    parser.add_argument("--png", type=Path, help="file for the chart; default: beside the report")
    args = parser.parse_args()
    if args.baseline and args.dit_engine:
        parser.error("--baseline runs PyTorch's DiT, which --dit-engine replaces: leave one of them out")
    if args.baseline and EXACT not in args.precision:
        parser.error(f"--baseline is compared with {EXACT}: add it to --precision")
    if args.repeat < 1:
        parser.error(f"--repeat {args.repeat} times nothing: give 1 or more")
    complete(args)
    return args


def complete(args: argparse.Namespace) -> None:
    """Fill in weights and files that are left out. Gigabytes are downloaded by those who ask for them alone."""
    if args.weights is None and is_published(args.preset):
        args.weights = RANDOM
        print(f"{args.preset} runs on seeded random weights: --weights names others")
    args.json = args.json or Path(f"latency-{Path(args.preset).name}.json")
    args.png = args.png or args.json.with_suffix(".png")
    if args.json == args.png:
        raise SystemExit(f"--json and --png are both {args.json}: give them different names")
    for path in (args.json, args.png):
        if path.is_dir() or not path.parent.is_dir():
            raise SystemExit(f"{path} cannot be written: name a file in a folder that exists")


def load_pipelines(args: argparse.Namespace) -> tuple[dict[str, Pipeline], float]:
    """By precision, the first one first; and the seconds that one took to load.

    The last precisions are loaded first: fp8 needs room for the wide weights only until they are quantised.
    """
    pipelines = {}
    for precision in reversed(args.precision):
        begin = time.perf_counter()
        pipelines[precision] = Pipeline.from_pretrained(
            args.preset,
            weights=args.weights,
            device=args.device,
            dit_engine=args.dit_engine,
            attention_backend=args.attention_backend,
            matmul_backend=args.matmul_backend,
            offload_encoders=args.offload_encoders,
            precision=precision,
        )
        load = time.perf_counter() - begin
    return dict(reversed(pipelines.items())), load


def variants_of(pipelines: dict[str, Pipeline], args: argparse.Namespace) -> dict[str, Variant]:
    """By name, in the order of the table."""
    variants = {}
    for precision, pipeline in pipelines.items():
        suffix = "" if len(pipelines) == 1 else f" {precision}"
        variants |= {f"{branches}{suffix}": Variant(pipeline, branches) for branches in args.branches}
    return variants | ({BASELINE: Variant(pipelines[EXACT], BASELINE)} if args.baseline else {})


def measure(
    variants: dict[str, Variant], pipelines: dict[str, Pipeline], args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """By variant: one generation to warm up, ``args.repeat`` that count, and one that finds its inputs encoded.

    And how well the variants agree; and by precision and attention the floor of one branch, in milliseconds.
    """
    first, results = {}, {name: [] for name in variants}
    floors: dict[str, list[dict[str, Any]]] = {floor_name(pipeline): [] for pipeline in pipelines.values()}
    for name, variant in variants.items():
        variant.pipeline.clear_caches()
        first[name] = timed(f"{name}, first run", variant, args)
    announce("comparing their latents")
    agreement = compare(variants, pipelines.get(EXACT), args)
    for _ in range(args.repeat):
        for name, variant in variants.items():
            variant.pipeline.clear_caches()
            results[name].append(timed(name, variant, args))
        for pipeline in pipelines.values():
            floors[floor_name(pipeline)].append(measure_branch(pipeline, next(iter(first.values())).settings))
    again = {name: timed(f"{name}, second call", variant, args) for name, variant in variants.items()}
    numbers = {name: summary(first[name], results[name], again[name]) for name in variants}
    if BASELINE in numbers:
        numbers[BASELINE]["settings"] |= {"matmul_backend": TORCH}  # of plain blocks, whatever the pipeline's is
    for name, variant in variants.items():
        numbers[name]["floor"] = floor_name(variant.pipeline)
        numbers[name]["latents_error"] = agreement.get("errors", {}).get(name)
    return {
        "variants": numbers,
        "agreement": agreement,
        "floors": {name: median_floor(found) for name, found in floors.items()},
    }


def compare(variants: dict[str, Variant], exact: Pipeline | None, args: argparse.Namespace) -> dict[str, Any]:
    """The errors of a few steps' latents by variant, what an exact one may err, and which ones err more.

    Or in "skipped" why there is nothing to compare with, or in "failed" why it could not be done.
    """
    if args.dit_engine is not None:
        return {"skipped": "an engine runs instead of PyTorch's DiT, `humo-rt verify-engine` compares them"}
    if exact is None:
        return {"skipped": f"there is no {EXACT} model to compare with, add {EXACT} to --precision"}
    baseline = Variant(exact, BASELINE)
    try:
        with with_more_digits(exact.dit):
            truth = final_latents(baseline, args)
        reference = final_latents(baseline, args)
        found = {name: reference if v == baseline else final_latents(v, args) for name, v in variants.items()}
    except RuntimeError as error:  # too little memory, or latents that are not finite
        return {"failed": str(error)}
    errors, allowed = {name: relative_error(x, truth) for name, x in found.items()}, allowed_error(reference, truth)
    return {
        "steps": compared_steps(args),
        "reference": relative_error(reference, truth),
        "allowed": allowed,
        "errors": errors,
        "exceeded": [name for name, error in errors.items() if not (variants[name].lossy or error <= allowed)],
    }


def compared_steps(args: argparse.Namespace) -> int:
    return min(COMPARED_STEPS, args.steps or COMPARED_STEPS)


def final_latents(variant: Variant, args: argparse.Namespace) -> Tensor:
    """Of the video, (1, C, T, H, W)."""
    kept: list[Tensor] = []

    def keep(pipeline: Pipeline, step: int, timestep: int, tensors: dict[str, Tensor]) -> None:
        kept[:] = [tensors["latents"]]

    generate(variant, args, num_inference_steps=compared_steps(args), callback_on_step_end=keep)
    return kept[0][:, :, : (args.num_frames - 1) // TEMPORAL_STRIDE + 1]  # reference frames follow


def timed(name: str, variant: Variant, args: argparse.Namespace) -> GenerationResult:
    """Says what it found at once: the report comes after minutes, and never if it is stopped before."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "video.mp4"
        result = generate(variant, args, num_inference_steps=args.steps, output=output, trace=True)
    announce(f"{name}: {result.timings['total']:.2f} s, {result.trace.step_p50:.3f} s a step")
    return result


def generate(variant: Variant, args: argparse.Namespace, **options: Any) -> GenerationResult:
    noise = np.random.default_rng(0)
    conditions: dict[str, Any] = {}
    if "I" in args.mode:
        conditions["image"] = noise.integers(0, 256, (512, 512, 3), dtype=np.uint8)
    if "A" in args.mode:
        samples = noise.normal(0, 0.1, args.num_frames * SAMPLE_RATE // FPS)
        conditions["audio"] = (samples.astype(np.float32), SAMPLE_RATE)
    with ExitStack() as stack:
        if variant.branches == BASELINE:
            stack.enter_context(plain(variant.pipeline))
        if variant.pipeline.weights == RANDOM and variant.pipeline.config.negative_prompt:
            conditions["negative_prompt"] = NEGATIVE_PROMPT
        return variant.pipeline.generate(
            PROMPT,
            height=args.height,
            width=args.width,
            num_frames=args.num_frames,
            seed=0,
            branch_batch_size=None if variant.branches == "batched" else 1,
            progress=False,
            **options,
            **conditions,
        )


@contextmanager
def plain(pipeline: Pipeline) -> Iterator[None]:
    """Meanwhile the pipeline runs unfused, eagerly and launch by launch, on the same attention kernel."""
    fused, denoiser, channels_last = (
        is_fused(pipeline.dit),
        pipeline.denoiser,
        isinstance(pipeline.vae, ChannelsLastVAE),
    )
    pipeline.denoiser = unfuse(pipeline.dit)
    use_plain(pipeline.vae)
    try:
        with torch.compiler.set_stance("force_eager"), registry.use_backend(registry.REFERENCE):
            yield
    finally:
        pipeline.denoiser = denoiser
        if fused:
            fuse(pipeline.dit)
        if channels_last:
            use_channels_last(pipeline.vae)


def floor_name(pipeline: Pipeline) -> str:
    return ", ".join([pipeline.precision, floor_attention(pipeline), pipeline.matmul_backend or TORCH])


def floor_attention(pipeline: Pipeline) -> str:
    """The pipeline's own attention; where an engine brings one, the fastest that PyTorch has here."""
    chosen = pipeline.attention_backend
    return chosen or choose(AUTO, pipeline.device, pipeline.dtype, pipeline.config.dit.head_dim)


def measure_branch(pipeline: Pipeline, settings: dict[str, Any]) -> dict[str, Any]:
    """The floor of one branch, in the pipeline's precision and on its backends, as one run of it finds it."""
    if pipeline.attention_backend is None:
        attention = partial(self_attention, backend=floor_attention(pipeline))
    else:
        attention = pipeline.dit.blocks[0].self_attn.attention_function
    kernels = {"attention": attention, "matmul_backend": pipeline.matmul_backend or TORCH}
    tier = {"dtype": pipeline.dtype, "precision": pipeline.precision}
    with torch.no_grad():
        return measure_floor(pipeline.config.dit, branch_shape(settings), 1, pipeline.device, **tier, **kernels)


if __name__ == "__main__":
    main()
