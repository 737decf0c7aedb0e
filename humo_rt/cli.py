"""The command ``humo-rt``: one command, one call into the library each.

Knows options only. Exit codes: 0 done, 1 something is missing or a case failed, 2 bad input, 130 stopped by Ctrl-C.
Imports nothing heavy before a command runs.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from humo_rt.config import PRESETS
from humo_rt.terminal import FAILED, TERMINATED, console, errors_in_one_line, say

if TYPE_CHECKING:
    from humo_rt.pipeline import Pipeline

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Text, reference images and audio in, a video of a person speaking out.",
)

PresetName = Annotated[str | None, typer.Option("--preset", help=f"Model: {', '.join(PRESETS)} (default: nano).")]
Weights = Annotated[
    str | None, typer.Option(help="Folder, file or Hugging Face repository with the weights, or 'random'.")
]
Device = Annotated[str | None, typer.Option(help="cuda, cuda:1 or cpu (default: the first GPU, else the CPU).")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")]


@app.command()
def generate(
    prompt: Annotated[str | None, typer.Option(help="What the video shows.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option(metavar="<path>", help="Reference image; repeat for several.")
    ] = None,
    audio: Annotated[
        list[Path] | None,
        typer.Option(metavar="<path>", help="Speech, any format ffmpeg reads; repeat for several speakers."),
    ] = None,
    face_mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[N:]MASK",
            help="Where audio acts: left,top,right,bottom; a mask image or video; detect:FILE, the faces of an earlier "
            "video; or predictor. With several --audio each has its own, 0:MASK for the first.",
        ),
    ] = None,
    face_mask_threshold: Annotated[
        float | None, typer.Option(help="Of --face-mask predictor: the probability that makes a face (default: 0.5).")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="MP4 to write (default: out.mp4); with --cases a folder.")
    ] = None,
    preset: PresetName = None,
    weights: Weights = None,
    height: Annotated[int | None, typer.Option(help="Pixels, a multiple of 16.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels, a multiple of 16.")] = None,
    num_frames: Annotated[int | None, typer.Option(help="4n+1 at 25 fps (default: the length of the audio).")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same video (default: a new one).")] = None,
    guidance: Annotated[str | None, typer.Option(help="Guidance formula: humo-1.7b, humo-17b, paper, none.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Weight of the text.")] = None,
    audio_guidance_scale: Annotated[float | None, typer.Option(help="Weight of the audio.")] = None,
    image_guidance_scale: Annotated[float | None, typer.Option(help="Weight of the reference images.")] = None,
    guidance_switch: Annotated[float | None, typer.Option(help="Timestep 0..1000 at which guidance changes.")] = None,
    flow_shift: Annotated[float | None, typer.Option(help="Shift of the noise schedule.")] = None,
    sampler: Annotated[str | None, typer.Option(help="unipc (default) or euler.")] = None,
    guidance_reuse: Annotated[
        str | None, typer.Option(help="Lossy: compute branches at every n-th step, 2 or TA=2,0=4,below=900.")
    ] = None,
    branch_batch_size: Annotated[
        int | None, typer.Option(help="Guidance branches computed at once (default: all); 1 needs the least memory.")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What the video must not show.")] = None,
    device: Device = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16, float16 or float32.")] = None,
    dit_engine: Annotated[
        Path | None, typer.Option(help="Run the DiT from this .onnx or .engine file instead of PyTorch.")
    ] = None,
    attention_backend: Annotated[
        str | None, typer.Option(help="Library for self-attention (default: the fastest); humo-rt doctor lists them.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="exact (default), or fp8: lossy and faster.")] = None,
    offload_encoders: Annotated[
        bool, typer.Option("--offload-encoders", help="Keep text and audio encoder in host memory while denoising.")
    ] = False,
    cases: Annotated[Path | None, typer.Option(help="JSON file of many cases, generated into the folder -o.")] = None,
    contact_sheet: Annotated[Path | None, typer.Option(help="Also write a PNG of frames and sound.")] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Also print the times of stages and steps.")] = False,
    traceback: Traceback = False,
) -> None:
    """Generate a video, or one per case of a JSON file."""
    given = {
        "height": height,
        "width": width,
        "num_frames": num_frames,
        "num_inference_steps": steps,
        "seed": seed,
        "guidance": guidance,
        "guidance_scale": guidance_scale,
        "audio_guidance_scale": audio_guidance_scale,
        "image_guidance_scale": image_guidance_scale,
        "guidance_switch_timestep": guidance_switch,
        "flow_shift": flow_shift,
        "sampler": sampler,
        "guidance_reuse": guidance_reuse,
        "branch_batch_size": branch_batch_size,
        "negative_prompt": negative_prompt,
        "face_mask_threshold": face_mask_threshold,
    }
    options = {name: value for name, value in given.items() if value is not None}
    model = {"preset": preset, "weights": weights, "device": device, "dtype": dtype}
    model |= {} if dit_engine is None else {"dit_engine": dit_engine}
    model |= {} if attention_backend is None else {"attention_backend": attention_backend}
    model |= {} if precision is None else {"precision": precision}
    model |= {"offload_encoders": True} if offload_encoders else {}
    with errors_in_one_line(traceback):
        if cases is None:
            sounds = audio if audio and len(audio) > 1 else next(iter(audio or ()), None)
            conditions = {"prompt": prompt, "image": image or None, "audio": sounds}
            conditions |= {"face_masks": _face_masks(face_mask, len(audio or ()))} if face_mask else {}
            options |= {"trace": True} if trace else {}
            _generate_one(conditions, options, model, output or Path("out.mp4"), contact_sheet)
        else:
            alone = {"--prompt": prompt, "--image": image, "--audio": audio, "--contact-sheet": contact_sheet}
            alone |= {"--face-mask": face_mask, "--face-mask-threshold": face_mask_threshold, "--trace": trace}
            for name, value in alone.items():
                if value:
                    raise ValueError(f"{name} cannot be combined with --cases: put it into the file, or leave it out")
            _generate_cases(cases, options, model, output or Path("out"))


@app.command()
def doctor(
    path: Annotated[Path | None, typer.Argument(help="Folder with weights (default: only the machine).")] = None,
    preset: PresetName = None,
    height: Annotated[int | None, typer.Option(help="Estimate the memory for this size.")] = None,
    width: Annotated[int | None, typer.Option(help="Estimate the memory for this size.")] = None,
    num_frames: Annotated[int | None, typer.Option(help="Estimate the memory for this length.")] = None,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    traceback: Traceback = False,
) -> None:
    """Say what a folder holds and lacks, what memory it needs, and what this machine offers."""
    with errors_in_one_line(traceback):
        from humo_rt.doctor import examine, to_json
        from humo_rt.doctor_tables import show

        size = {"height": height, "width": width, "num_frames": num_frames}
        findings = examine(path, preset_name=preset, device=device, **size)
        if as_json:
            typer.echo(to_json(findings))
        else:
            show(findings, console(sys.stdout))
        if not findings.ok:
            raise typer.Exit(FAILED)


@app.command()
def presets() -> None:
    """List the models and their default settings."""
    from rich.table import Table

    from humo_rt.weights.hub import is_published

    table = Table(box=None, pad_edge=False)
    for heading in ("preset", "size", "frames", "steps", "guidance", "text, audio, image scale", "weights"):
        table.add_column(heading)
    for name, config in PRESETS.items():
        scales = (config.guidance_scale, config.audio_guidance_scale, config.image_guidance_scale)
        table.add_row(
            name,
            f"{config.width}x{config.height}",
            str(config.num_frames),
            str(config.num_inference_steps),
            config.guidance,
            ", ".join("-" if scale is None else f"{scale:g}" for scale in scales),
            "downloaded, or --weights" if is_published(name) else "in the package",
        )
    console(sys.stdout).print(table)


@app.command()
def version() -> None:
    """Print the versions of humo-rt, torch and Python."""
    import platform
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    for package in ("humo-rt", "torch"):
        try:
            typer.echo(f"{package} {installed(package)}")
        except PackageNotFoundError:
            typer.echo(f"{package} is not installed as a package")
    typer.echo(f"python {platform.python_version()}")


@app.command()
def export(
    output: Annotated[Path, typer.Option("--output", "-o", help="ONNX file to write; large weights go beside it.")],
    preset: PresetName = None,
    weights: Weights = None,
    precision: Annotated[
        str, typer.Option(help="bfloat16, float16, float32, or fp8 (lossy: the linear layers of the blocks).")
    ] = "bfloat16",
    face_mask: Annotated[bool, typer.Option("--face-mask", help="Take a face mask as an input.")] = False,
    mask_predictor: Annotated[bool, typer.Option("--mask-predictor", help="Also predict the face mask.")] = False,
    plugins: Annotated[
        bool, typer.Option("--plugins", help="Audio attention as a TensorRT plugin; for build-engine only.")
    ] = False,
    traceback: Traceback = False,
) -> None:
    """Write the DiT as an ONNX file, for ONNX Runtime and build-engine."""
    with errors_in_one_line(traceback):
        from humo_rt.tensorrt.commands import run_export
        from humo_rt.tensorrt.source import Source

        model, found = _source(preset, weights)
        source = Source(model=model, weights=found)
        parts = {"face_mask": face_mask, "mask_predictor": mask_predictor, "plugins": plugins}
        run_export(source, output, precision=precision, **parts)


@app.command("verify-engine")
def verify_engine(
    file: Annotated[Path, typer.Argument(help="An .engine, or the .onnx it was built from.")],
    preset: PresetName = None,
    weights: Weights = None,
    traceback: Traceback = False,
) -> None:
    """Run an engine or ONNX file and PyTorch on the same inputs; print errors and speed, exit 1 if they disagree.

    The weights are those it was exported from, unless --preset or --weights names others.
    """
    with errors_in_one_line(traceback):
        from humo_rt.tensorrt.commands import run_verify
        from humo_rt.tensorrt.source import Source

        model, found = _source(preset, weights)
        run_verify(file, Source(model=model, weights=found) if preset or weights else None)


@app.command("build-engine")
def build_engine(
    onnx: Annotated[Path, typer.Argument(help="What 'humo-rt export' wrote.")],
    target: Annotated[str, typer.Option(help="rtx4090, rtx5090, a100, h100, h200, b200, or current.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: a name that says what it is.")] = None,
    size: Annotated[
        list[str] | None, typer.Option(metavar="WIDTHxHEIGHT", help="Largest size in pixels; repeat for several.")
    ] = None,
    num_frames: Annotated[int | None, typer.Option(help="Longest video.")] = None,
    branches: Annotated[int | None, typer.Option(help="Most guidance branches in one forward.")] = None,
    references: Annotated[int | None, typer.Option(help="Most reference images.")] = None,
    engine_weights: Annotated[
        str, typer.Option(help="embedded; or, to replace them later: separate, refittable or stripped.")
    ] = "embedded",
    weight_streaming: Annotated[
        bool, typer.Option("--weight-streaming", help="Weights may stay in host memory; no CUDA graphs then.")
    ] = False,
    timing_cache: Annotated[Path | None, typer.Option(help="Kernel timings to reuse (full TensorRT only).")] = None,
    traceback: Traceback = False,
) -> None:
    """Build a TensorRT engine of an exported DiT. Engines for RTX cards need no GPU to be built."""
    with errors_in_one_line(traceback):
        from humo_rt.tensorrt.build import BuildSettings
        from humo_rt.tensorrt.commands import run_build
        from humo_rt.tensorrt.profiles import parse_size

        settings = BuildSettings(
            target=target,
            sizes=tuple(parse_size(text) for text in size or ()),
            num_frames=num_frames,
            branches=branches,
            references=references,
            weights=engine_weights,
            weight_streaming=weight_streaming,
            timing_cache=timing_cache,
        )
        run_build(onnx, output, settings)


def main() -> None:
    """Entry point of the ``humo-rt`` command."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # A job scheduler's kill leaves through the context managers too, so that no temporary file stays behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(TERMINATED))
    app()


def load_pipeline(
    *,
    preset: str | None,
    weights: str | None,
    device: str | None,
    dtype: str | None,
    **options: Any,
) -> Pipeline:
    """The pipeline that ``--preset``, ``--weights``, ``--device``, ``--dtype`` and further ``options`` ask for."""
    from humo_rt.pipeline import Pipeline

    source, weights = _source(preset, weights)
    return Pipeline.from_pretrained(source, weights=weights, device=device, dtype=_dtype(dtype), **options)


def _source(preset: str | None, weights: str | None) -> tuple[str, str | None]:
    """``--weights`` alone names a model by what the folder holds; without either, and for random ones, it is nano."""
    if preset is None and weights not in (None, "random"):
        return weights, None
    return preset or "nano", weights


def _face_masks(given: list[str], speakers: int) -> Any:
    """The mask of the one speaker, or a list with one for each."""
    if speakers < 2:
        return _face_mask(given)
    of_speaker: dict[int, list[str]] = {}
    for text in given:
        number, _, mask = text.partition(":")
        if not (number.isdecimal() and mask):
            if text == "predictor" and len(given) == 1:
                return text
            raise ValueError(f"--face-mask {text} does not say whose it is: write 0:{text} for the first --audio")
        if int(number) >= speakers:
            raise ValueError(
                f"--face-mask {text} is for --audio {number}, but the last of {speakers} is {speakers - 1}"
            )
        of_speaker.setdefault(int(number), []).append(mask)
    return [_face_mask(of_speaker[speaker]) if speaker in of_speaker else None for speaker in range(speakers)]


def _face_mask(given: list[str]) -> Any:
    """Boxes as tuples, or the one path."""
    boxes = [text.split(",") for text in given]
    try:
        return [tuple(float(number) for number in box) for box in boxes]
    except ValueError:
        if len(given) > 1:
            raise ValueError(
                f"--face-mask {given} mixes several: give boxes left,top,right,bottom, or one image or video"
            ) from None
        return given[0]


def _dtype(name: str | None) -> Any:
    if name is None:
        return None
    import torch

    known = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if name not in known:
        raise ValueError(f"unknown dtype {name!r}: choose one of {', '.join(known)}")
    return known[name]


def _generate_one(
    conditions: dict[str, Any], options: dict[str, Any], model: dict[str, Any], output: Path, sheet: Path | None
) -> None:
    from humo_rt.terminal import GenerationProgress, show_trace

    if conditions["prompt"] is None:
        raise ValueError("--prompt is missing: say what the video shows, or give --cases")
    if sheet is not None:
        _check_folder(sheet.parent)
        if sheet.is_dir():
            raise ValueError(f"contact sheet {str(sheet)!r} is a folder: name a file in it")
    options = _checked_before_loading(conditions, options, model, output)
    with GenerationProgress() as progress:
        pipeline = load_pipeline(**model)
        progress.begin()
        result = pipeline.generate(**conditions, **options, output=output, progress=progress.report)
    height, width = result.frames.shape[1:3]
    typer.echo(
        f"{output}: {len(result.frames)} frames of {width}x{height} at {result.fps} fps, "
        f"seed {result.seed}, {result.timings['total']:.1f} s"
    )
    if result.trace is not None:
        show_trace(result.trace)
    if sheet is not None:
        from humo_rt.contact_sheet import contact_sheet, save_contact_sheet

        picture = contact_sheet(result.frames, result.audio, result.sample_rate, result.fps)
        typer.echo(f"{save_contact_sheet(picture, sheet)}: contact sheet")


def _checked_before_loading(
    conditions: dict[str, Any], options: dict[str, Any], model: dict[str, Any], output: Path | None
) -> dict[str, Any]:
    """Refuse a bad request before the minutes that loading may take; returns the options with the length settled."""
    from humo_rt.request import GenerationRequest
    from humo_rt.weights.resolve import configuration

    _dtype(model["dtype"])
    config = configuration(*_source(model["preset"], model["weights"]))
    request = GenerationRequest(**conditions, **options, output=output).validated(config)
    return options | {"num_frames": request.num_frames}


def _generate_cases(path: Path, options: dict[str, Any], model: dict[str, Any], folder: Path) -> None:
    from humo_rt.batch import Case, read_cases, run_cases
    from humo_rt.terminal import GenerationProgress, show_outcomes

    cases = read_cases(path)
    # What all cases share is checked once; their own prompts, images and sounds when their turn comes.
    _checked_before_loading({"prompt": "any"}, options, model, None)
    if not folder.exists():
        _check_folder(folder.parent)
        folder.mkdir()
    _check_folder(folder)
    outcomes = []
    with GenerationProgress() as progress:
        pipeline = load_pipeline(**model)

        def announce(case: Case) -> None:
            progress.begin(f"{case.name} ({len(outcomes) + 1} of {len(cases)}) ")

        for outcome in run_cases(pipeline, cases, folder, options | {"progress": progress.report}, on_start=announce):
            outcomes.append(outcome)
            if outcome.error:
                say(f"{outcome.name}: {outcome.error}", style="red")
    show_outcomes(outcomes)
    if any(outcome.error for outcome in outcomes):
        raise typer.Exit(FAILED)


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise ValueError(f"output {str(folder)!r} is a file: name a folder")
    if not folder.is_dir():
        raise ValueError(f"output folder {str(folder)!r} does not exist: create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"output folder {str(folder)!r} is not writable: choose another one")
