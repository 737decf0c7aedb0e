"""The tiny DiTs of the golden data, built once per process."""

from __future__ import annotations

from functools import cache

from humo_rt.config import DiTConfig
from humo_rt.model.dit import HumoDiT
from tests.golden_data import load_json, recipe_weights


@cache
def golden_dit(group: str) -> HumoDiT:
    """``dit_t2v`` (16 input channels) or ``dit_i2v`` (36), float32, in eval mode."""
    settings = load_json(group)
    shape, audio = settings["config"], settings["audio"]
    config = DiTConfig(
        dim=shape["dim"],
        num_layers=shape["num_layers"],
        num_heads=shape["num_heads"],
        ffn_dim=shape["ffn_dim"],
        image_injection="channels" if shape["model_type"] == "i2v" else "frames",
        in_channels=shape["in_dim"],
        text_dim=shape["text_dim"],
        text_len=shape["text_len"],
        freq_dim=shape["freq_dim"],
        eps=shape["eps"],
        audio_dim=audio["channels"],
        audio_bands=audio["blocks"],
        audio_window=audio["window"],
        audio_hidden=audio["intermediate"],
        audio_tokens=audio["tokens"],
        audio_token_dim=audio["width"],
    )
    model = HumoDiT(config)
    model.load_state_dict(recipe_weights(settings["weights"]))
    return model.eval().requires_grad_(False)
