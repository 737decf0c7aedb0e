"""Score a model on held-out people, voices and sentences: ``python -m training.evaluate``.

Parses the command line and calls the parts in order; ``training.evaluation`` does the work. Needs trained judges
(``python -m training.train nano-judges``).

    python -m training.evaluate --json scores.json --sheet scores.png
    python -m training.evaluate --sweep 2,3,2 3,4,2 3,5,3       # on the dev clips
    python -m training.evaluate --compare full.json no_focus.json single_stage.json  # prints Markdown
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from humo_rt import rules
from humo_rt.config import ModelConfig
from humo_rt.runtime import attention_backends, precision
from humo_rt.runtime.float8_block import fuse_float8
from humo_rt.sampling.reuse import GuidanceReuse
from humo_rt.weights.components import Components, load_components
from training import parallel
from training.errors import RunError
from training.evaluation import protocol, report
from training.evaluation.generation import DEFAULT_SCALES, BatchGenerator, Scales
from training.evaluation.real_speech import evaluate_recordings
from training.evaluation.testset import HeldOutClips, held_out
from training.judges.panel import Panel

logger = logging.getLogger(__name__)

SHEET_ROWS = ("true frames", "reconstructions", "TIA", "TA")
SWEPT = ("TA", "TIA", "TIA silence")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when it worked, 1 when something is missing, 2 for a mistake in the arguments."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    console = Console(width=130)
    try:
        if options.compare:
            stems = [path.stem for path in options.compare]
            names = stems if len(set(stems)) == len(stems) else map(str, options.compare)
            results = {name: json.loads(path.read_text()) for name, path in zip(names, options.compare, strict=True)}
            console.print(report.comparison(results), markup=False, soft_wrap=True)
        else:
            _evaluate(options, console)
    except (ValueError, OSError, RunError) as error:
        Console(stderr=True).print(f"error: {error}", markup=False, soft_wrap=True)
        return 1 if isinstance(error, RunError) else 2
    except KeyboardInterrupt:
        return 130
    return 0


def _evaluate(options: argparse.Namespace, console: Console) -> None:
    device = parallel.join(options.device).device
    for path in (options.json, options.sheet):
        if path is not None and path.is_dir():
            raise ValueError(f"{str(path)!r} is a folder: name a file in it")
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"folder {str(path.parent)!r} does not exist: create it first")
    for name in ("clips", "steps", "batch"):
        if (number := getattr(options, name)) is not None:
            rules.whole(f"--{name}", number, 1)
    if options.frames is not None:
        rules.frame_count("--frames", options.frames)
    if options.sweep and options.split == "test":
        raise ValueError("a sweep chooses settings, so the test clips must not see it: use --split dev")
    split = options.split or ("dev" if options.sweep else "test")
    start = time.perf_counter()
    components = _load(options, device)
    config = components.config
    backend = _use_precision(options, components, device)
    panel = Panel.load(options.judges, device)
    clips = _clips(options, config, split, device)
    logger.info("model, judges and %d %s clips ready in %.1f s", len(clips), split, time.perf_counter() - start)
    steps = options.steps or config.num_inference_steps
    reuse = None if options.guidance_reuse is None else GuidanceReuse.parse(options.guidance_reuse)
    generator = BatchGenerator(components, steps=steps, seed=options.seed, batch_size=options.batch, reuse=reuse)
    settings = {
        "model": config.name,
        "weights": str(options.weights or config.name),
        "dit": str(options.dit) if options.dit else None,
        "split": split,
        "clips": len(clips),
        "num_frames": clips.num_frames,
        "size": list(clips.size),
        "steps": steps,
        "seed": options.seed,
        "scales": _scales_used(options.scales, config),
        "guidance_reuse": reuse and reuse.to_json(),
        "precision": options.precision,
        "attention_backend": backend,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
    if options.sweep:
        result: Any = _sweep(options, generator, panel, clips, settings, console)
    else:
        result, pictures = _full(options, generator, panel, clips, settings)
        _show(result, console)
    if options.json:
        report.write_json(result, options.json)
    if options.sheet and not options.sweep:
        report.sheet(*pictures, options.sheet)


def _full(
    options: argparse.Namespace, generator: BatchGenerator, panel: Panel, clips: HeldOutClips, settings: dict[str, Any]
) -> tuple[report.Result, tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """Every row, mask IoU, real speech and the bounds; and the videos and sounds of a contact sheet."""
    start = time.perf_counter()
    kept: dict[str, torch.Tensor] = {}

    def keep(name: str, video: torch.Tensor) -> None:
        if name in SHEET_ROWS:
            kept[name] = video[:3].cpu()

    rows = protocol.evaluate(
        generator, panel, clips, scales=options.scales, reconstruct=generator.reconstruct, keep=keep
    )
    result: report.Result = {"settings": settings, "rows": rows}
    sounds = {name: clips.audio_BS[:3].cpu() for name in kept}
    if generator.dit.mask_predictor is not None:
        order = protocol.order_for(protocol.TIA, clips)
        by_timestep = generator.mask_iou(order, clips.video_BFCHW, clips.face_BFHW)
        values = {str(timestep): iou.mean().item() for timestep, iou in by_timestep.items()}
        result["mask_iou"] = values | {"mean": sum(values.values()) / len(values)}
    if options.real:
        lag = rows["TIA"]["mouth"]["lag"]
        result["real_speech"], video, audio = evaluate_recordings(
            generator, panel, options.real, clips, lag=lag, scales=options.scales
        )
        kept["real speech"], sounds["real speech"] = video[::5][:3].cpu(), audio[::5][:3].cpu()
    result["targets"] = report.targets(result)
    result["seconds"] = time.perf_counter() - start
    return result, (kept, sounds)


def _sweep(
    options: argparse.Namespace,
    generator: BatchGenerator,
    panel: Panel,
    clips: HeldOutClips,
    settings: dict[str, Any],
    console: Console,
) -> dict[str, Any]:
    """The rows that depend most on guidance, for every triple of scales."""
    runs = tuple(run for run in protocol.RUNS if run.name in SWEPT)
    found = []
    for scales in options.sweep:
        rows = protocol.evaluate(generator, panel, clips, runs=runs, scales=scales)
        used = _scales_used(scales, generator.config)
        found.append({"scales": used, "rows": rows})
        title = "text {text:g}, audio {audio:g}, image {image:g}".format(**used)
        _print(console, title, report.table_rows({name: rows[name] for name in SWEPT}))
    return {"settings": settings, "sweep": found}


def _load(options: argparse.Namespace, device: torch.device) -> Components:
    """The model, with the DiT of ``--dit`` in place of its own when given."""
    from humo_rt.model.dit import HumoDiT
    from humo_rt.weights.load import load_into
    from humo_rt.weights.modules import float32_rule
    from humo_rt.weights.names import dit_name
    from humo_rt.weights.readers import read_checkpoint

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    components = load_components(options.preset, weights=options.weights, device=device, dtype=dtype)
    if options.dit is None:
        return components
    with torch.device("meta"):
        dit = HumoDiT(components.config.dit)
    load_into(
        dit,
        read_checkpoint(options.dit),
        dtype=dtype,
        device=device,
        rename=dit_name,
        keep_float32=float32_rule(dit),
        source=str(options.dit),
    )
    return replace(components, dit=dit.eval().requires_grad_(False))


def _use_precision(options: argparse.Namespace, components: Components, device: torch.device) -> str:
    """Let the DiT run as ``--precision`` and ``--attention-backend`` say, in place; returns the backend taken."""
    dit, dtype, lossy = components.dit, components.dit.patch_embedding.weight.dtype, options.precision == precision.FP8
    precision.check_precision(options.precision, device, dtype, dit.config)
    backend = attention_backends.choose(options.attention_backend, device, dtype, dit.config.head_dim, lossy=lossy)
    attention_backends.use_attention(dit, backend)
    if lossy:
        fuse_float8(dit)
    return backend


def _clips(options: argparse.Namespace, config: ModelConfig, split: Any, device: torch.device) -> HeldOutClips:
    return held_out(
        options.clips,
        split=split,
        height=options.height or config.height,
        width=options.width or config.width,
        num_frames=options.frames or config.num_frames,
        device=device,
    )


def _scales_used(scales: Scales, config: ModelConfig) -> dict[str, float | None]:
    defaults = {
        "text": config.guidance_scale,
        "audio": config.audio_guidance_scale,
        "image": config.image_guidance_scale,
    }
    given = {"text": scales.text, "audio": scales.audio, "image": scales.image}
    return {name: defaults[name] if value is None else value for name, value in given.items()}


def _show(result: report.Result, console: Console) -> None:
    _print(console, "held-out clips", report.table_rows(result["rows"]))
    if "real_speech" in result:
        _print(console, "recorded speech", report.speech_rows(result["real_speech"]))
    _print(console, "text, by attribute", report.attribute_rows(result["rows"], ("true frames", "T", "TA", "none")))
    _print(console, "bounds", report.target_rows(result))
    console.print(f"evaluated in {result['seconds']:.1f} s")


def _print(console: Console, title: str, rows: list[list[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if i else "left")
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)


def _triple(text: str) -> Scales:
    try:
        text_scale, audio, image = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not three numbers: write text,audio,image such as 2,3,2"
        ) from None
    return Scales(text=text_scale, audio=audio, image=image)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=(__doc__ or "").split("\n")[0])
    shipped = sorted(Path(str(files("humo_rt") / "assets" / "samples")).glob("*.wav"))
    add = parser.add_argument
    add("--preset", default="nano", help="preset name, or a folder with weights (default: nano)")
    add("--weights", help="where the preset's weights are (default: the preset's own)")
    add("--dit", type=Path, help="a DiT file to use instead of the one in the weights, to compare recipes")
    add("--judges", type=Path, default=Path("runs/nano-judges"), help="folder of judges (default: runs/nano-judges)")
    add("--clips", type=int, default=64, help="held-out clips (default: 64; identity needs at least 10 people)")
    add("--split", choices=("test", "dev"), help="default: test; dev for a sweep")
    add("--steps", type=int, help="denoising steps (default: the preset's)")
    add("--scales", type=_triple, default=DEFAULT_SCALES, help="text,audio,image guidance (default: the preset's)")
    add(
        "--guidance-reuse", help="compute guidance branches at every n-th step: 2, or TA=2,0=4 (default: at every step)"
    )
    add("--precision", choices=precision.CHOICES, default=precision.EXACT, help="fp8 is lossy (default: exact)")
    add(
        "--attention-backend",
        choices=attention_backends.CHOICES,
        default=attention_backends.SDPA,
        help="what computes self-attention (default: sdpa)",
    )
    add("--sweep", type=_triple, nargs="+", help="try several text,audio,image triples on the dev clips")
    add("--real", type=Path, nargs="*", default=shipped, help="recordings for real speech; none after --real skips it")
    add("--height", type=int, help="pixels (default: the preset's)")
    add("--width", type=int, help="pixels (default: the preset's)")
    add("--frames", type=int, help="frames, 4n + 1 (default: the preset's)")
    add("--batch", type=int, default=32, help="clips generated at once (default: 32)")
    add("--seed", type=int, default=0, help="of the noise (default: 0)")
    add("--device", help="default: the first GPU, otherwise the CPU")
    add("--json", type=Path, help="write the scores here")
    add("--sheet", type=Path, help="write a contact sheet here (PNG)")
    add("--compare", type=Path, nargs="+", help="print scores of earlier runs side by side instead, as Markdown")
    return parser


if __name__ == "__main__":
    sys.exit(main())
