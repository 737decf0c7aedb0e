"""Models of toy size with the layout of each published one, filled with seeded random weights."""

from __future__ import annotations

import dataclasses
from functools import cache

import torch

from humo_rt.config import HUMO_1_7B, HUMO_17B, AudioEncoderConfig, DiTConfig, ModelConfig, TextEncoderConfig, VAEConfig
from humo_rt.pipeline import Pipeline
from humo_rt.weights.components import Components
from humo_rt.weights.modules import build_on_meta, part_dtype
from humo_rt.weights.random_init import byte_tokenizer, fill_random

WIDTH = 16


def tiny_config(published: ModelConfig, **dit_changes) -> ModelConfig:
    """``published`` with its injection, guidance and defaults, its networks shrunk to a few thousand parameters."""
    dit = DiTConfig(
        dim=32,
        num_layers=4,
        num_heads=2,
        ffn_dim=48,
        image_injection=published.dit.image_injection,
        in_channels=published.dit.in_channels,
        text_dim=WIDTH,
        text_len=32,
        freq_dim=16,
        audio_dim=WIDTH,
        audio_hidden=16,
        audio_tokens=4,
        audio_token_dim=16,
        mask_predictor=True,
    )
    return dataclasses.replace(
        published,
        name=f"tiny-{published.name}",
        dit=dataclasses.replace(dit, **dit_changes),
        vae=VAEConfig(base_dim=4, dim_mult=(1, 1, 1, 1), num_res_blocks=1),
        text_encoder=TextEncoderConfig(vocab_size=300, d_model=WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2),
        audio_encoder=AudioEncoderConfig(d_model=WIDTH, num_layers=4, num_heads=2, ffn_dim=16, num_mel_bins=80),
        height=32,
        width=48,
        num_frames=9,
        num_inference_steps=2,
    )


def tiny_components(
    config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Components:
    modules = build_on_meta(config)
    for part, module in modules.items():
        fill_random(module, part=part, seed=seed, dtype=part_dtype(part, dtype), device=device)
        module.eval().requires_grad_(False)
    return Components(config=config, tokenizer=byte_tokenizer(), **modules)


@cache
def tiny_pipeline(layout: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Pipeline:
    """``layout``: "frames" (as HuMo-1.7B) or "channels" (as HuMo-17B)."""
    config = tiny_config({"frames": HUMO_1_7B, "channels": HUMO_17B}[layout])
    return Pipeline(tiny_components(config, dtype=dtype, device=device))
