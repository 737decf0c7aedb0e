"""What a HuMo model is made of: frozen dataclasses and the presets.

Knows shapes and defaults only. Reads no files and builds no modules.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

LATENT_CHANNELS = 16
MASK_CHANNELS = 4
CONDITION_CHANNELS = MASK_CHANNELS + LATENT_CHANNELS
SPATIAL_STRIDE = 8
TEMPORAL_STRIDE = 4
SAMPLE_RATE = 16_000
FPS = 25

WAN_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，"
    "杂乱的背景，三条腿，背景人很多，倒着走"
)

WAN_LATENTS_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN_LATENTS_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """The diffusion transformer.

    ``image_injection`` says how reference latents enter: ``"frames"`` overwrites the trailing latent frames of the
    noisy input (HuMo-1.7B), ``"channels"`` puts them into 20 extra input channels (HuMo-17B).
    """

    dim: int
    num_layers: int
    num_heads: int
    ffn_dim: int
    image_injection: Literal["frames", "channels"]
    in_channels: int = LATENT_CHANNELS
    out_channels: int = LATENT_CHANNELS
    patch_size: tuple[int, int, int] = (1, 2, 2)
    freq_dim: int = 256
    text_dim: int = 4096
    text_len: int = 512
    eps: float = 1e-6
    audio_dim: int = 1280
    audio_bands: int = 5
    audio_window: int = 8
    audio_hidden: int = 512
    audio_tokens: int = 16
    audio_token_dim: int = 1536
    mask_predictor: bool = False

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(f"dim {self.dim} must split into {self.num_heads} heads of even width")
        expected = LATENT_CHANNELS + (CONDITION_CHANNELS if self.image_injection == "channels" else 0)
        if self.in_channels != expected:
            raise ValueError(
                f"in_channels {self.in_channels} does not fit image_injection={self.image_injection!r}: use {expected}"
            )

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Wan's causal 3-D autoencoder: 8x8 in space, 4x in time, 16 latent channels.

    ``patch_size`` folds pixels into channels before the first convolution; each doubling saves one spatial level.
    ``residual`` adds Wan2.2's shortcuts around every change of resolution.
    """

    base_dim: int = 96
    decoder_base_dim: int | None = None
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    patch_size: int | None = None
    residual: bool = False
    latents_mean: tuple[float, ...] = WAN_LATENTS_MEAN
    latents_std: tuple[float, ...] = WAN_LATENTS_STD


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """The encoder half of UMT5."""

    vocab_size: int = 256_384
    d_model: int = 4096
    d_kv: int = 64
    d_ff: int = 10_240
    num_layers: int = 24
    num_heads: int = 64


@dataclass(frozen=True, kw_only=True)
class AudioEncoderConfig:
    """The encoder half of Whisper. ``num_layers`` is a multiple of 4: hidden states are pooled into five bands."""

    d_model: int = 1280
    num_layers: int = 32
    num_heads: int = 20
    ffn_dim: int = 5120
    num_mel_bins: int = 128


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One complete model and the settings it is meant to run with.

    ``image_guidance_scale`` is None where the model's guidance table has no image term.
    """

    name: str
    dit: DiTConfig
    vae: VAEConfig = field(default_factory=VAEConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    audio_encoder: AudioEncoderConfig = field(default_factory=AudioEncoderConfig)
    guidance: str
    guidance_scale: float
    audio_guidance_scale: float
    image_guidance_scale: float | None
    guidance_switch_timestep: float | None = None
    negative_prompt: str = WAN_NEGATIVE_PROMPT
    height: int = 480
    width: int = 832
    num_frames: int = 97
    num_inference_steps: int = 50
    flow_shift: float = 5.0


HUMO_1_7B = ModelConfig(
    name="humo-1.7b",
    dit=DiTConfig(dim=1536, num_layers=30, num_heads=12, ffn_dim=8960, image_injection="frames"),
    guidance="humo-1.7b",
    guidance_scale=7.5,
    audio_guidance_scale=7.5,
    image_guidance_scale=4.0,
)

HUMO_17B = ModelConfig(
    name="humo-17b",
    dit=DiTConfig(dim=5120, num_layers=40, num_heads=40, ffn_dim=13_824, image_injection="channels", in_channels=36),
    guidance="humo-17b",
    guidance_scale=5.0,
    audio_guidance_scale=5.5,
    image_guidance_scale=None,
    guidance_switch_timestep=980.0,
    height=720,
    width=1280,
)

NANO = ModelConfig(
    name="nano",
    dit=DiTConfig(
        dim=256,
        num_layers=8,
        num_heads=4,
        ffn_dim=768,
        image_injection="frames",
        text_dim=192,
        text_len=64,
        audio_dim=256,
        audio_hidden=160,
        audio_tokens=8,
        audio_token_dim=192,
        mask_predictor=True,
    ),
    vae=VAEConfig(
        base_dim=24,
        decoder_base_dim=32,
        dim_mult=(1, 2, 2),
        num_res_blocks=1,
        temporal_downsample=(True, True),
        patch_size=2,
        residual=True,
        latents_mean=(0.0,) * LATENT_CHANNELS,
        latents_std=(1.0,) * LATENT_CHANNELS,
    ),
    text_encoder=TextEncoderConfig(vocab_size=2048, d_model=192, d_kv=48, d_ff=384, num_layers=3, num_heads=4),
    audio_encoder=AudioEncoderConfig(d_model=256, num_layers=4, num_heads=4, ffn_dim=1024, num_mel_bins=80),
    guidance="humo-1.7b",
    guidance_scale=3.0,
    audio_guidance_scale=3.0,
    image_guidance_scale=5.0,
    negative_prompt="",
    height=128,
    width=128,
    num_inference_steps=20,
    flow_shift=3.0,
)

PRESETS: dict[str, ModelConfig] = {config.name: config for config in (NANO, HUMO_1_7B, HUMO_17B)}


def preset(name: str) -> ModelConfig:
    """Return the preset called ``name``; ``ValueError`` lists the known ones."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
