"""The four networks of a model, built without memory, and the precision each of their parameters is loaded in.

Knows which class each part is. Reads no files.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from humo_rt.config import ModelConfig
from humo_rt.model.layers import FullPrecisionLinear, LayerNorm, RMSNorm

NETWORKS = ("dit", "vae", "text_encoder", "audio_encoder")

_FLOAT32_LAYERS = (FullPrecisionLinear, LayerNorm, RMSNorm)


def build_on_meta(config: ModelConfig) -> dict[str, nn.Module]:
    """All four networks on the meta device: names and shapes, no memory. The VAE is a ``VideoVAE``."""
    from humo_rt.model.dit import HumoDiT
    from humo_rt.model.encoders import build_audio_encoder, build_text_encoder
    from humo_rt.model.vae import VideoVAE

    with torch.device("meta"):
        return {
            "dit": HumoDiT(config.dit),
            "vae": VideoVAE(config.vae),
            "text_encoder": build_text_encoder(config.text_encoder),
            "audio_encoder": build_audio_encoder(config.audio_encoder),
        }


def part_dtype(part: str, dtype: torch.dtype) -> torch.dtype:
    """The precision of one network when the model runs in ``dtype``.

    Whisper's hidden states are averaged over layers and drive the mouth: the encoder is small and stays in float32.
    UMT5 overflows in float16.
    """
    if part == "audio_encoder":
        return torch.float32
    if part == "text_encoder" and dtype == torch.float16:
        return torch.bfloat16
    return dtype


def float32_rule(module: nn.Module) -> Callable[[str], bool]:
    """True for the parameters that ``module`` computes with in float32 whatever the rest runs in."""
    names = {
        f"{path}.{leaf}"
        for path, layer in module.named_modules()
        if isinstance(layer, _FLOAT32_LAYERS)
        for leaf, _ in layer.named_parameters(recurse=False)
    }
    return lambda name: name in names or name.rpartition(".")[2] == "modulation"


def parameter_bytes(modules: dict[str, nn.Module], dtype: torch.dtype) -> dict[str, int]:
    """Memory of each network's parameters once loaded in ``dtype``."""
    result = {}
    for part, module in modules.items():
        wide = float32_rule(module)
        narrow = part_dtype(part, dtype).itemsize
        result[part] = sum(
            parameter.numel() * (torch.float32.itemsize if wide(name) else narrow)
            for name, parameter in module.named_parameters()
        )
    return result
