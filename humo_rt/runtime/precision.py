"""The precision tiers: what each one means, where it can run, and which layers of the lossy one stay exact.

Knows names, devices and layers' names. Changes no model; ``float8_block`` does.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch

from humo_rt.config import DiTConfig

EXACT = "exact"  # matrix products in the dtype of the weights, as the release computes them
FP8 = "fp8"  # matrix products of the blocks in e4m3; lossy, so only when asked for
CHOICES = (EXACT, FP8)

# The products of a block that fp8 reaches. Keys and values of text and audio are made once per generation and stay as
# they are, as do the embeddings and the head, and the output projection of audio, which fused blocks fold into values.
FLOAT8_LAYERS = (
    "self_attn.qkv",
    "self_attn.o",
    "cross_attn.q",
    "cross_attn.o",
    "audio_cross_attn.q",
    "ffn.0",
    "ffn.2",
)

# Layers that fp8 leaves alone because they hurt, as patterns of "<block>.<layer>"; blocks count from 0, and from -1
# backwards: "0.ffn.*" is the feed-forward of the first block, "*.self_attn.o" an output projection everywhere. Chosen
# with benchmarks/fp8_quality.py: audio attention has few keys, so it averages no errors away, and no gate makes what it
# adds smaller. Its queries alone raise the error of a branch of HuMo-1.7B from 2.4e-2 to 3.7e-2, for half a percent of
# a step.
EXACT_LAYERS: tuple[str, ...] = ("*.audio_cross_attn.*",)

_CAPABILITY = (8, 9)
_MULTIPLE = 16  # of every width of an e4m3 product


def check_precision(precision: str, device: torch.device, dtype: torch.dtype, config: DiTConfig) -> None:
    """``ValueError`` for an unknown tier or one that takes no such device, dtype or width; ``RuntimeError`` for a card
    without e4m3."""
    if precision not in CHOICES:
        raise ValueError(f"unknown precision {precision!r}: choose one of {', '.join(CHOICES)}")
    if precision == EXACT:
        return
    if device.type != "cuda":
        raise ValueError(f"precision {FP8!r} needs an NVIDIA GPU, not {device}: use {EXACT!r}")
    if dtype != torch.bfloat16:
        raise ValueError(f"precision {FP8!r} is made from bfloat16, not {_name(dtype)}: leave dtype out")
    check_widths(config)
    capability = torch.cuda.get_device_capability(device)
    if capability < _CAPABILITY:
        given, needed = (".".join(map(str, each)) for each in (capability, _CAPABILITY))
        raise RuntimeError(
            f"precision {FP8!r} needs compute capability {needed} (Ada, Hopper, Blackwell), "
            f"{torch.cuda.get_device_name(device)} has {given}: use {EXACT!r}"
        )


def check_widths(config: DiTConfig) -> None:
    """``ValueError`` for a width that an e4m3 product does not take."""
    for name, width in (("dim", config.dim), ("ffn_dim", config.ffn_dim)):
        if width % _MULTIPLE:
            raise ValueError(
                f"{name} {width} is not a multiple of {_MULTIPLE}, as precision {FP8!r} needs: use {EXACT!r}"
            )


def float8_layers(block: int, count: int, exact_layers: tuple[str, ...] = EXACT_LAYERS) -> set[str]:
    """The layers of block number ``block`` of ``count`` that run in e4m3."""
    names = {layer: (f"{block}.{layer}", f"{block - count}.{layer}") for layer in FLOAT8_LAYERS}
    return {
        layer
        for layer, aliases in names.items()
        if not any(fnmatchcase(alias, pattern) for alias in aliases for pattern in exact_layers)
    }


def check_patterns(exact_layers: tuple[str, ...], count: int) -> None:
    """``ValueError`` for a pattern that no layer of ``count`` blocks has."""
    for pattern in exact_layers:
        if all(len(float8_layers(block, count, (pattern,))) == len(FLOAT8_LAYERS) for block in range(count)):
            raise ValueError(
                f"{pattern!r} names no layer of {count} blocks: write <block>.<layer>, the layers are "
                f"{', '.join(FLOAT8_LAYERS)}, * stands for anything"
            )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
