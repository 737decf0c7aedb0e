"""What ``humo-rt generate`` does: check, load, generate, and say what was written.

Knows options and terminals. Everything that can be refused is refused before the minutes that loading may take.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from humo_rt import rules
from humo_rt.cli_options import model_source, torch_dtype
from humo_rt.terminal import FAILED, say

if TYPE_CHECKING:
    from humo_rt.batch import Case
    from humo_rt.pipeline import Pipeline


def given(**options: Any) -> dict[str, Any]:
    """Those that are not None: what is left out keeps the default of the preset or the pipeline."""
    return {name: value for name, value in options.items() if value is not None}


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

    source, weights = model_source(preset, weights)
    return Pipeline.from_pretrained(source, weights=weights, device=device, dtype=torch_dtype(dtype), **options)


def generate_one(
    conditions: dict[str, Any], options: dict[str, Any], model: dict[str, Any], output: Path, sheet: Path | None
) -> None:
    """One video, its contact sheet and its times; ``conditions`` are what it shows."""
    from humo_rt.terminal import GenerationProgress, show_trace

    if conditions["prompt"] is None:
        raise ValueError("--prompt is missing: say what the video shows, or give --cases")
    if sheet is not None:
        _check_folder(sheet.parent)
        if sheet.is_dir():
            raise ValueError(f"contact sheet {str(sheet)!r} is a folder: name a file in it")
        if sheet.resolve() == output.resolve():
            raise ValueError(f"contact sheet {str(sheet)!r} would take the place of the video: give it another name")
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


def refuse_beside_cases(alone: dict[str, Any]) -> None:
    """``ValueError`` when an option is given that each case has for itself; by flag, False or None if it is not."""
    for name, value in alone.items():
        if value:
            raise ValueError(f"{name} cannot be combined with --cases: put it into the file, or leave it out")


def generate_cases(path: Path, options: dict[str, Any], model: dict[str, Any], folder: Path) -> None:
    """A video for each case of a JSON file; exit code 1 when one failed."""
    from humo_rt.batch import read_cases, run_cases
    from humo_rt.terminal import GenerationProgress, show_outcomes

    cases = read_cases(path)
    _check_shared_options(cases, options, model)
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


def _check_shared_options(cases: list[Case], options: dict[str, Any], model: dict[str, Any]) -> None:
    """Refuse what suits no case; the cases' own prompts, images and sounds are checked when their turn comes.

    Some options suit some conditions only, and stand-ins have each case's conditions.
    """
    from humo_rt.runtime.warmup import noise_inputs

    refusals = {}
    modes = sorted({case.mode for case in cases})
    for mode in modes:
        shown = noise_inputs(mode, rules.MIN_SPOKEN_FRAMES)
        length = {"num_frames": shown.pop("num_frames")}
        try:
            _checked_before_loading({"prompt": "any", **shown}, length | options, model, None)
        except ValueError as error:
            refusals[mode] = error
    if len(refusals) == len(modes):
        raise refusals[modes[0]]


def _checked_before_loading(
    conditions: dict[str, Any], options: dict[str, Any], model: dict[str, Any], output: Path | None
) -> dict[str, Any]:
    """Refuse a bad request before the minutes that loading may take; returns the options with the length settled."""
    from humo_rt.media import check_codecs
    from humo_rt.request import GenerationRequest
    from humo_rt.weights.resolve import configuration

    check_codecs(sound=bool(conditions.get("audio")))
    torch_dtype(model["dtype"])
    config = configuration(*model_source(model["preset"], model["weights"]))
    request = GenerationRequest(**conditions, **options, output=output).validated(config)
    return options | {"num_frames": request.num_frames}


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise ValueError(f"output {str(folder)!r} is a file: name a folder")
    if not folder.is_dir():
        raise ValueError(f"output folder {str(folder)!r} does not exist: create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"output folder {str(folder)!r} is not writable: choose another one")
