"""The options of ``humo-rt``: type and help of each, by theme, and what the words given with them mean.

An option without a flag of its own is named by the parameter that has its type. Imports nothing heavy.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from humo_rt.config import PRESETS

if TYPE_CHECKING:
    from humo_rt.tensorrt import DitEngine

# Which model, and where it runs.
PresetName = Annotated[str | None, typer.Option("--preset", help=f"Model: {', '.join(PRESETS)} (default: nano).")]
Weights = Annotated[
    str | None, typer.Option(help="Folder, file or Hugging Face repository with the weights, or 'random'.")
]
Device = Annotated[str | None, typer.Option(help="cuda, cuda:1 or cpu (default: the first GPU, else the CPU).")]
Dtype = Annotated[str | None, typer.Option(help="bfloat16, float16 or float32.")]
EngineFile = Annotated[
    Path | None, typer.Option(help="Run the DiT from this .onnx or .engine file instead of PyTorch.")
]
EngineOnnx = Annotated[
    Path | None,
    typer.Option(help="ONNX file with the weights of an engine that lacks them (default: the one it was built from)."),
]
WeightBudget = Annotated[
    float | None, typer.Option(help="GiB of an engine's weights to keep on the GPU, if it was built to stream them.")
]
AttentionBackend = Annotated[
    str | None, typer.Option(help="Library for self-attention (default: the fastest); humo-rt doctor lists them.")
]
MatmulBackend = Annotated[
    str | None, typer.Option(help="Library for matrix products (default: the fastest); humo-rt doctor lists them.")
]
Precision = Annotated[str | None, typer.Option(help="exact (default), or fp8: lossy and faster.")]
OffloadEncoders = Annotated[
    bool, typer.Option("--offload-encoders", help="Keep text and audio encoder in host memory while denoising.")
]

# What the video shows.
Prompt = Annotated[str | None, typer.Option(help="What the video shows.")]
NegativePrompt = Annotated[str | None, typer.Option(help="What the video must not show.")]
Images = Annotated[list[Path] | None, typer.Option(metavar="<path>", help="Reference image; repeat for several.")]
Sounds = Annotated[
    list[Path] | None,
    typer.Option(metavar="<path>", help="Speech, any format ffmpeg reads; repeat for several speakers."),
]
FaceMasks = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[N:]MASK",
        help="Where audio acts: left,top,right,bottom; a mask image or video; detect:FILE, the faces of an earlier "
        "video; or predictor. With several --audio each has its own, 0:MASK for the first.",
    ),
]
FaceMaskThreshold = Annotated[
    float | None, typer.Option(help="Of --face-mask predictor: the probability that makes a face (default: 0.5).")
]

# Its size.
Pixels = Annotated[int | None, typer.Option(help="Pixels, a multiple of 16.")]
FrameCount = Annotated[int | None, typer.Option(help="4n+1 at 25 fps (default: the length of the audio).")]
SizeToEstimate = Annotated[int | None, typer.Option(help="Estimate the memory for this size.")]
LengthToEstimate = Annotated[int | None, typer.Option(help="Estimate the memory for this length.")]

# How it is sampled.
Steps = Annotated[int | None, typer.Option(help="Denoising steps.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same video (default: a new one).")]
Guidance = Annotated[str | None, typer.Option(help="Guidance formula: humo-1.7b, humo-17b, paper, none.")]
TextScale = Annotated[float | None, typer.Option(help="Weight of the text.")]
AudioScale = Annotated[float | None, typer.Option(help="Weight of the audio.")]
ImageScale = Annotated[float | None, typer.Option(help="Weight of the reference images.")]
GuidanceSwitch = Annotated[float | None, typer.Option(help="Timestep 0..1000 at which guidance changes.")]
FlowShift = Annotated[float | None, typer.Option(help="Shift of the noise schedule.")]
Sampler = Annotated[str | None, typer.Option(help="unipc (default) or euler.")]
GuidanceReuse = Annotated[
    str | None, typer.Option(help="Lossy: compute branches at every n-th step, 2 or TA=2,0=4,below=900.")
]
BranchBatchSize = Annotated[
    int | None, typer.Option(help="Guidance branches computed at once (default: all); 1 needs the least memory.")
]

# What is written and printed.
VideoOutput = Annotated[
    Path | None, typer.Option("--output", "-o", help="MP4 to write (default: out.mp4); with --cases a folder.")
]
Cases = Annotated[Path | None, typer.Option(help="JSON file of many cases, generated into the folder -o.")]
ContactSheet = Annotated[Path | None, typer.Option(help="Also write a PNG of frames and sound.")]
Trace = Annotated[bool, typer.Option("--trace", help="Also print the times of stages and steps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")]


def model_source(preset: str | None, weights: str | None) -> tuple[str, str | None]:
    """``--weights`` alone names a model by what the folder holds; without either, and for random ones, it is nano."""
    if preset is None and weights not in (None, "random"):
        return weights, None
    return preset or "nano", weights


def dit_engine(path: Path | None, onnx: Path | None, weight_budget: float | None) -> DitEngine | None:
    """What runs the DiT; ``ValueError`` for options of an engine without one."""
    from humo_rt.tensorrt import DitEngine

    if path is not None:
        return DitEngine(path, onnx=onnx, weight_budget=None if weight_budget is None else int(weight_budget * 2**30))
    for name, value in {"--engine-onnx": onnx, "--weight-budget": weight_budget}.items():
        if value is not None:
            raise ValueError(f"{name} {value} is for an engine: give one with --dit-engine, or leave it out")
    return None


def torch_dtype(name: str | None) -> Any:
    """The ``torch.dtype`` of that name; ``ValueError`` for one that no pipeline runs in."""
    if name is None:
        return None
    import torch

    known = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if name not in known:
        raise ValueError(f"unknown dtype {name!r}: choose one of {', '.join(known)}")
    return known[name]


def conditions(
    prompt: str | None, images: list[Path] | None, sounds: list[Path] | None, masks: list[str] | None
) -> dict[str, Any]:
    """What the video shows, as the pipeline takes it: one sound by itself, several as a list."""
    sounds = sounds or []
    sound = sounds if len(sounds) > 1 else next(iter(sounds), None)
    found = {"prompt": prompt, "image": images or None, "audio": sound}
    return found | ({"face_masks": face_masks(masks, len(sounds))} if masks else {})


def face_masks(given: list[str], speakers: int) -> Any:
    """The mask of the one speaker, or a list with one for each; ``ValueError`` for what cannot be told apart."""
    of_speaker: dict[int, list[str]] = {}
    for text in given:
        number, _, mask = text.partition(":")
        if not (number.isdecimal() and mask):
            if speakers > 1 and text == "predictor" and len(given) == 1:
                return text
            if speakers > 1:
                raise ValueError(f"--face-mask {text} does not say whose it is: write 0:{text} for the first --audio")
            number, mask = "0", text
        if speakers == 0 and number != "0":
            raise ValueError(f"--face-mask {text} is for the sound number {number}, but there is no --audio: give it")
        if int(number) >= max(speakers, 1):
            raise ValueError(
                f"--face-mask {text} is for --audio {number}, but the last of {speakers} is {speakers - 1}"
            )
        of_speaker.setdefault(int(number), []).append(mask)
    if speakers < 2:
        return _face_mask(of_speaker[0])
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
