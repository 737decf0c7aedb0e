"""A model small enough to write, in every published layout, within a test."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from humo_rt.config import (
    AudioEncoderConfig,
    DiTConfig,
    ModelConfig,
    TextEncoderConfig,
    VAEConfig,
    preset,
)
from humo_rt.weights.modules import build_on_meta
from humo_rt.weights.random_init import byte_tokenizer, fill_random
from humo_rt.weights.save import save_published
from tests.golden_data import load_json

_SIZES = {
    "text_encoder": TextEncoderConfig(vocab_size=300, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4),
    "audio_encoder": AudioEncoderConfig(d_model=32, num_layers=4, num_heads=2, ffn_dim=48, num_mel_bins=80),
    "vae": VAEConfig(base_dim=8),
}
_DIT = {
    "dim": 48,
    "num_heads": 2,
    "ffn_dim": 64,
    "text_dim": 32,
    "text_len": 32,
    "audio_dim": 32,
    "audio_hidden": 16,
    "audio_tokens": 4,
    "audio_token_dim": 16,
}


def tiny_config(name: str, *, mask_predictor: bool = False) -> ModelConfig:
    """The preset's guidance and way of taking images, with networks of a few thousand parameters."""
    published = preset(name)
    dit = DiTConfig(
        **_DIT,
        num_layers=3 if name == "nano" else 2,
        image_injection=published.dit.image_injection,
        in_channels=published.dit.in_channels,
        mask_predictor=mask_predictor,
    )
    return replace(published, dit=dit, **_SIZES, height=32, width=48, num_frames=5)


def tiny_weights(config: ModelConfig) -> dict[str, dict[str, torch.Tensor]]:
    """State dicts by part, in this project's names (the VAE in diffusers' names)."""
    modules = build_on_meta(config)
    for part, module in modules.items():
        fill_random(module, part=part, seed=7, dtype=torch.float32, device="cpu")
    modules["vae"] = modules["vae"].autoencoder
    weights = {part: module.state_dict() for part, module in modules.items()}
    del weights["text_encoder"]["encoder.embed_tokens.weight"]
    return weights


def write_own(folder: Path, weights: dict[str, dict[str, torch.Tensor]]) -> None:
    """The layout of ``humo_rt/assets/nano``."""
    for part, tensors in weights.items():
        save_published(tensors, folder / f"{part}.safetensors", "file")
    byte_tokenizer().backend_tokenizer.save(str(folder / "tokenizer.json"))


def write_published(folder: Path, layout: str, weights: dict[str, dict[str, torch.Tensor]]) -> None:
    """The layout the release's instructions produce; ``layout``: "HuMo-17B" or "HuMo-1.7B"."""
    save_published(weights["dit"], folder / "HuMo", layout, shard_bytes=100_000)
    for frames, (height, width) in ((5, (4, 6)), (3, (8, 8))):
        torch.save(torch.full((16, frames, height, width), float(frames)), folder / f"HuMo/zero_vae_{frames}frame.pt")
    wan = folder / "Wan2.1-T2V-1.3B"
    wan.mkdir()
    torch.save(official_vae(weights["vae"]), wan / "Wan2.1_VAE.pth")
    torch.save(official_umt5(weights["text_encoder"]), wan / "models_t5_umt5-xxl-enc-bf16.pth")
    byte_tokenizer().save_pretrained(wan / "google" / "umt5-xxl")
    whisper = folder / "whisper-large-v3"
    whisper.mkdir()
    prefixed = {f"model.encoder.{name}": tensor for name, tensor in weights["audio_encoder"].items()}
    decoder = {"model.decoder.layer_norm.weight": torch.ones(32)}
    save_file(prefixed | decoder, whisper / "model.safetensors", metadata={"format": "pt"})
    (whisper / "config.json").write_text(json.dumps({"model_type": "whisper"}))


def write_comfy(folder: Path, weights: dict[str, dict[str, torch.Tensor]]) -> Path:
    """ComfyUI's model folders, DiT in half precision; returns the DiT's file."""
    for name in ("diffusion_models", "vae", "text_encoders", "audio_encoders"):
        (folder / name).mkdir()
    dit = folder / "diffusion_models" / "humo_1.7B_fp16.safetensors"
    save_file({f"model.diffusion_model.{name}": tensor.half() for name, tensor in weights["dit"].items()}, dit)
    save_file(official_vae(weights["vae"]), folder / "vae" / "wan_2.1_vae.safetensors")
    extra = {"spiece_model": torch.zeros(9, dtype=torch.uint8)}
    save_file(weights["text_encoder"] | extra, folder / "text_encoders" / "umt5_xxl_fp16.safetensors")
    save_file(weights["audio_encoder"], folder / "audio_encoders" / "whisper_large_v3_fp16.safetensors")
    byte_tokenizer().save_pretrained(folder / "google" / "umt5-xxl")
    return dit


def official_vae(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The official VAE names, by the recorded table rather than by this project's rules."""
    official = {theirs: ours for ours, theirs in load_json("vae_keymap_diffusers")["map"].items()}
    return {official[name]: tensor for name, tensor in tensors.items()}


def official_umt5(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    official = {theirs: ours for ours, theirs in load_json("t5_keymap_transformers")["map"].items()}
    return {official[name]: tensor for name, tensor in tensors.items()}
