"""The sizes an engine takes: its optimisation profiles, and how the shape of every input follows from them.

A profile names a smallest, a typical and a largest size; TensorRT accepts everything between and is fastest at the
typical one. Knows the presets, nothing of TensorRT.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

from humo_rt.config import PRESETS, SPATIAL_STRIDE, TEMPORAL_STRIDE, DiTConfig, ModelConfig
from humo_rt.sampling.guidance import CONDITIONS, guidance_table
from humo_rt.tensorrt.bindings import Binding, Size

MAX_REFERENCES = 4
# One latent frame of video and one reference slot: the shortest video.
MIN_FRAMES = 2

_AXES = tuple(field.name for field in dataclasses.fields(Size))


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Sizes in latents, all ends inclusive."""

    smallest: Size
    typical: Size
    largest: Size

    def __post_init__(self) -> None:
        for axis in _AXES:
            low, middle, high = (getattr(size, axis) for size in (self.smallest, self.typical, self.largest))
            if not 1 <= low <= middle <= high:
                raise ValueError(f"profile with {axis} {low} to {high}, typically {middle}: order them and start at 1")

    def __str__(self) -> str:
        def span(axis: str) -> str:
            low, high = getattr(self.smallest, axis), getattr(self.largest, axis)
            return str(low) if low == high else f"{low}-{high}"

        return f"{span('branches')} branches, {span('frames')} frames, {span('height')}x{span('width')}"

    def covers(self, size: Size) -> bool:
        return all(getattr(self.smallest, axis) <= getattr(size, axis) <= getattr(self.largest, axis) for axis in _AXES)

    def shapes(self, binding: Binding, config: DiTConfig) -> tuple[tuple[int, ...], ...]:
        """Smallest, typical and largest shape of one input or output."""
        return tuple(binding.shape(size, config) for size in (self.smallest, self.typical, self.largest))

    @classmethod
    def from_dict(cls, fields: dict[str, dict[str, int]]) -> Profile:
        """The profile that ``dataclasses.asdict`` took apart."""
        return cls(**{name: Size(**axes) for name, axes in fields.items()})


def model_of(config: DiTConfig) -> ModelConfig | None:
    """The preset this DiT belongs to, with or without a mask predictor; None for one of the user's own."""
    same = (
        model for model in PRESETS.values()
        if dataclasses.replace(model.dit, mask_predictor=config.mask_predictor) == config
    )  # fmt: skip
    return next(same, None)


def profiles_for(
    config: DiTConfig,
    *,
    sizes: Sequence[tuple[int, int]] = (),
    num_frames: int | None = None,
    branches: int | None = None,
    references: int | None = None,
) -> tuple[Profile, ...]:
    """One profile per ``(width, height)`` in pixels; what is not given comes from the DiT's preset.

    A profile reaches from one branch, the shortest video and half the width and height up to ``branches``,
    ``references`` and the whole size; its typical size has every branch and one reference.

    ``ValueError`` for sizes the model cannot have, and for a model that is no preset when something is not given.
    """
    model = model_of(config)
    if model is None and not (sizes and num_frames is not None and branches is not None):
        raise ValueError("this model is no preset, so its sizes are unknown: pass --size, --num-frames and --branches")
    if model is not None:
        sizes = sizes or [(model.width, model.height)]
        num_frames = model.num_frames if num_frames is None else num_frames
        if branches is None:
            branches = max(len(row.weights) for row in guidance_table(model, CONDITIONS).rows)
    references = MAX_REFERENCES if references is None else references
    if num_frames < 1 or num_frames % TEMPORAL_STRIDE != 1:
        raise ValueError(f"num_frames {num_frames} is not 4n+1: try {max(0, num_frames) // 4 * 4 + 1}")
    if branches < 1 or references < 1:
        raise ValueError(f"{branches} branches and {references} references: give at least one of each")
    return tuple(_profile(config, *size, num_frames, branches, references) for size in sizes)


def choose_profile(profiles: Sequence[Profile], size: Size, source: str) -> int:
    """The profile that covers ``size`` and whose typical size is closest to it.

    ``ValueError`` names the options that build an engine for ``size`` when none covers it.
    """
    fitting = [index for index, profile in enumerate(profiles) if profile.covers(size)]
    if not fitting:
        raise ValueError(
            f"latents of {size} fit no profile of {source} ({'; '.join(map(str, profiles))}): "
            f"build an engine with {options_for(profiles, size)}"
        )
    return min(fitting, key=lambda index: abs(_cells(profiles[index].typical) - _cells(size)))


def options_for(profiles: Sequence[Profile], size: Size) -> str:
    """Options of ``humo-rt build-engine`` whose profiles cover ``size`` and everything that ``profiles`` do."""
    largest = [profile.largest for profile in profiles]
    wanted = dict.fromkeys((each.width, each.height) for each in (*largest, size))
    branches = max(each.branches for each in (*largest, size))
    # A typical size has one reference; whatever a profile takes beyond it are more of them.
    references = max(profile.largest.frames - profile.typical.frames + 1 for profile in profiles)
    frames = max(size.frames, *(profile.typical.frames for profile in profiles))
    options = [f"--size {width * SPATIAL_STRIDE}x{height * SPATIAL_STRIDE}" for width, height in wanted]
    options.append(f"--num-frames {(frames - MIN_FRAMES) * TEMPORAL_STRIDE + 1} --branches {branches}")
    if references != MAX_REFERENCES:
        options.append(f"--references {references}")
    return " ".join(options)


def parse_size(text: str) -> tuple[int, int]:
    """``"832x480"`` as (width, height) in pixels."""
    match = re.fullmatch(r"(\d+)x(\d+)", text.strip().lower())
    if match is None:
        raise ValueError(f"size {text!r} is not WIDTHxHEIGHT: write it like 832x480")
    return int(match[1]), int(match[2])


def _profile(config: DiTConfig, width: int, height: int, num_frames: int, branches: int, references: int) -> Profile:
    unit = SPATIAL_STRIDE * config.patch_size[1]
    if width < unit or height < unit or width % unit or height % unit:
        raise ValueError(f"size {width}x{height} is not a multiple of {unit}: try {_near(width)}x{_near(height)}")
    latent_frames = (num_frames - 1) // TEMPORAL_STRIDE + 1
    whole = {"height": height // SPATIAL_STRIDE, "width": width // SPATIAL_STRIDE}
    patch = {"height": config.patch_size[1], "width": config.patch_size[2]}
    half = {axis: -(-whole[axis] // (2 * patch[axis])) * patch[axis] for axis in whole}
    return Profile(
        smallest=Size(branches=1, frames=MIN_FRAMES, **half),
        typical=Size(branches=branches, frames=latent_frames + 1, **whole),
        largest=Size(branches=branches, frames=latent_frames + references, **whole),
    )


def _near(pixels: int) -> int:
    return max(16, round(pixels / 16) * 16)


def _cells(size: Size) -> int:
    return size.branches * size.frames * size.height * size.width
