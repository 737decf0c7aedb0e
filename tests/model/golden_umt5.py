"""The tiny UMT5 encoder of the golden data, built once per process."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from humo_rt.config import TextEncoderConfig
from humo_rt.model.encoders import build_text_encoder
from tests.golden_data import load_json, recipe_weights

if TYPE_CHECKING:
    from transformers import UMT5EncoderModel


@cache
def golden_umt5() -> UMT5EncoderModel:
    settings = load_json("t5")
    arch, names = settings["arch"], load_json("t5_keymap_transformers")["map"]
    encoder = build_text_encoder(
        TextEncoderConfig(
            vocab_size=arch["vocab"],
            d_model=arch["dim"],
            d_kv=arch["dim_attn"] // arch["num_heads"],
            d_ff=arch["dim_ffn"],
            num_layers=arch["num_layers"],
            num_heads=arch["num_heads"],
        )
    )
    weights = {names[name]: tensor for name, tensor in recipe_weights(settings["weights"]).items()}
    missing, unexpected = encoder.load_state_dict(weights, strict=False)
    assert set(missing) <= {"encoder.embed_tokens.weight"}  # tied to the shared embedding
    assert not unexpected
    return encoder
