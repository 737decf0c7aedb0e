"""The command ``humo-rt``: one command, one call into the library each.

Knows options only; ``cli_options`` says what each is. Exit codes: 0 done, 1 something is missing or a case failed, 2
bad input, 130 stopped by Ctrl-C. Imports nothing heavy before a command runs.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from humo_rt import cli_options as options
from humo_rt import commands
from humo_rt.config import PRESETS
from humo_rt.tensorrt import cli as tensorrt
from humo_rt.terminal import FAILED, TERMINATED, console, errors_in_one_line

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Text, reference images and audio in, a video of a person speaking out.",
)


def _version_of(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} is not installed as a package"


def _say_version(asked: bool) -> None:
    """Ends the program before a command is looked for."""
    if asked:
        typer.echo(_version_of("humo-rt"))
        raise typer.Exit


@app.callback()
def before_the_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of no command in particular."""


@app.command()
def generate(
    prompt: options.Prompt = None,
    image: options.Images = None,
    audio: options.Sounds = None,
    face_mask: options.FaceMasks = None,
    face_mask_threshold: options.FaceMaskThreshold = None,
    output: options.VideoOutput = None,
    preset: options.PresetName = None,
    weights: options.Weights = None,
    height: options.Pixels = None,
    width: options.Pixels = None,
    num_frames: options.FrameCount = None,
    steps: options.Steps = None,
    seed: options.Seed = None,
    guidance: options.Guidance = None,
    guidance_scale: options.TextScale = None,
    audio_guidance_scale: options.AudioScale = None,
    image_guidance_scale: options.ImageScale = None,
    guidance_switch: options.GuidanceSwitch = None,
    flow_shift: options.FlowShift = None,
    sampler: options.Sampler = None,
    guidance_reuse: options.GuidanceReuse = None,
    branch_batch_size: options.BranchBatchSize = None,
    negative_prompt: options.NegativePrompt = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    dit_engine: options.EngineFile = None,
    engine_onnx: options.EngineOnnx = None,
    weight_budget: options.WeightBudget = None,
    attention_backend: options.AttentionBackend = None,
    matmul_backend: options.MatmulBackend = None,
    precision: options.Precision = None,
    offload_encoders: options.OffloadEncoders = False,
    cases: options.Cases = None,
    contact_sheet: options.ContactSheet = None,
    trace: options.Trace = False,
    traceback: options.Traceback = False,
) -> None:
    """Generate a video, or one per case of a JSON file."""
    settings = commands.given(
        height=height, width=width, num_frames=num_frames, num_inference_steps=steps, seed=seed, guidance=guidance,
        guidance_scale=guidance_scale, audio_guidance_scale=audio_guidance_scale,
        image_guidance_scale=image_guidance_scale, guidance_switch_timestep=guidance_switch, flow_shift=flow_shift,
        sampler=sampler, guidance_reuse=guidance_reuse, branch_batch_size=branch_batch_size,
        negative_prompt=negative_prompt, face_mask_threshold=face_mask_threshold, trace=trace or None,
    )  # fmt: skip
    with errors_in_one_line(traceback):
        model = {"preset": preset, "weights": weights, "device": device, "dtype": dtype} | commands.given(
            dit_engine=options.dit_engine(dit_engine, engine_onnx, weight_budget), attention_backend=attention_backend,
            matmul_backend=matmul_backend, precision=precision, offload_encoders=offload_encoders or None,
        )  # fmt: skip
        if cases is None:
            shown = options.conditions(prompt, image, audio, face_mask)
            commands.generate_one(shown, settings, model, output or Path("out.mp4"), contact_sheet)
        else:
            alone = {"--prompt": prompt, "--image": image, "--audio": audio, "--contact-sheet": contact_sheet}
            alone |= {"--face-mask": face_mask, "--face-mask-threshold": face_mask_threshold, "--trace": trace}
            commands.refuse_beside_cases(alone)
            commands.generate_cases(cases, settings, model, output or Path("out"))


@app.command()
def doctor(
    path: Annotated[Path | None, typer.Argument(help="Folder with weights (default: only the machine).")] = None,
    preset: options.PresetName = None,
    height: options.SizeToEstimate = None,
    width: options.SizeToEstimate = None,
    num_frames: options.LengthToEstimate = None,
    device: options.Device = None,
    as_json: options.AsJson = False,
    traceback: options.Traceback = False,
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

    for package in ("humo-rt", "torch"):
        typer.echo(_version_of(package))
    typer.echo(f"python {platform.python_version()}")


app.command()(tensorrt.export)
app.command("verify-engine")(tensorrt.verify_engine)
app.command("build-engine")(tensorrt.build_engine)


def main() -> None:
    """Entry point of the ``humo-rt`` command."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    # A job scheduler's kill leaves through the context managers too, so that no temporary file stays behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(TERMINATED))
    app()
