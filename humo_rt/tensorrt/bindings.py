"""What an exported DiT takes and gives: names, dtypes and axes, the one table that export, sessions and engines share.

Whatever stays the same during a generation is an input, so that no step computes it again: keys and values of text and
audio for every block, and the rotary table. The sinusoid of the timestep is an input too, because its angles need
float64, which TensorRT does not have. Knows nothing of ONNX, TensorRT or files.

Axis legend: an axis is a fixed size or one of the names in ``DYNAMIC_AXES``. Frames are latent frames, the reference
frames included; height and width are those of the latents, rows and columns those of tokens, half as many. The rotary
table has the axes of the video, so no number of tokens has to be proven to be a product of sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from humo_rt.config import CONDITION_CHANNELS, LATENT_CHANNELS, DiTConfig

LATENTS = "latents"
TIMESTEP_SINUSOID = "timestep_sinusoid"
ROPE_COS, ROPE_SIN = "rope_cos", "rope_sin"
TEXT_KEYS, TEXT_VALUES = "text_keys", "text_values"
AUDIO_KEYS, AUDIO_VALUES = "audio_keys", "audio_values"
CONDITION = "condition"
FACE_MASK = "face_mask"
VELOCITY = "velocity"
FACE_MASK_LOGITS = "face_mask_logits"

DYNAMIC_AXES = ("branches", "frames", "height", "width", "rows", "columns")

Axis = int | str


@dataclass(frozen=True, kw_only=True)
class Size:
    """Values of the dynamic axes of one call: branches, latent frames, latent height and width."""

    branches: int
    frames: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.branches} branches, {self.frames} frames, {self.height}x{self.width}"

    @classmethod
    def of_latents(cls, x_BCTHW: Tensor) -> Size:
        branches, _, frames, height, width = x_BCTHW.shape
        return cls(branches=branches, frames=frames, height=height, width=width)

    def axis(self, axis: Axis, config: DiTConfig) -> int:
        """The length of ``axis``, which is a number already or one of ``DYNAMIC_AXES``."""
        if isinstance(axis, int):
            return axis
        _, patch_height, patch_width = config.patch_size
        tokens = {"rows": self.height // patch_height, "columns": self.width // patch_width}
        return tokens[axis] if axis in tokens else getattr(self, axis)


@dataclass(frozen=True, kw_only=True)
class Binding:
    """One input or output of the graph."""

    name: str
    dtype: torch.dtype
    axes: tuple[Axis, ...]

    def shape(self, size: Size, config: DiTConfig) -> tuple[int, ...]:
        return tuple(size.axis(axis, config) for axis in self.axes)


def dit_inputs(config: DiTConfig, dtype: torch.dtype, *, face_mask: bool = False) -> tuple[Binding, ...]:
    """Inputs in the order of the graph, for a DiT whose matrix products run in ``dtype``.

    ``condition`` exists for models with ``"channels"`` injection, ``face_mask`` (in 0..1, where audio acts) for graphs
    exported with one.
    """
    layers, heads, width = config.num_layers, config.num_heads, config.head_dim
    video = ("frames", "height", "width")
    rope = ("frames", "rows", "columns", width // 2)
    text = (layers, "branches", heads, config.text_len, width)
    audio = (layers, "branches", "frames", heads, config.audio_tokens, width)
    wide = torch.float32
    inputs = [
        Binding(name=LATENTS, dtype=wide, axes=("branches", LATENT_CHANNELS, *video)),
        Binding(name=TIMESTEP_SINUSOID, dtype=wide, axes=("branches", config.freq_dim)),
        Binding(name=ROPE_COS, dtype=wide, axes=rope),
        Binding(name=ROPE_SIN, dtype=wide, axes=rope),
        Binding(name=TEXT_KEYS, dtype=dtype, axes=text),
        Binding(name=TEXT_VALUES, dtype=dtype, axes=text),
        Binding(name=AUDIO_KEYS, dtype=dtype, axes=audio),
        Binding(name=AUDIO_VALUES, dtype=dtype, axes=audio),
    ]
    if config.image_injection == "channels":
        inputs.append(Binding(name=CONDITION, dtype=wide, axes=("branches", CONDITION_CHANNELS, *video)))
    if face_mask:
        inputs.append(Binding(name=FACE_MASK, dtype=wide, axes=("branches", *video)))
    return tuple(inputs)


def dit_outputs(config: DiTConfig, *, mask_predictor: bool = False) -> tuple[Binding, ...]:
    """Outputs in the order of the graph: the velocity and, if exported, the mask predictor's logits. All float32."""
    video = ("frames", "height", "width")
    outputs = [Binding(name=VELOCITY, dtype=torch.float32, axes=("branches", config.out_channels, *video))]
    if mask_predictor:
        outputs.append(Binding(name=FACE_MASK_LOGITS, dtype=torch.float32, axes=("branches", *video)))
    return tuple(outputs)
