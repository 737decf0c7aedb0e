"""A HuMo model of a few thousand parameters with random frozen networks, and clips of noise, for tests of the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from humo_rt.config import NANO, AudioEncoderConfig, DiTConfig, ModelConfig, TextEncoderConfig
from training.clips import Clips
from training.task import derive_seed
from training.tasks.dit_config import DiTTaskConfig

_SIZES = {"dim": 24, "num_layers": 4, "num_heads": 2, "ffn_dim": 32, "text_dim": 8, "text_len": 12, "audio_dim": 16}
_AUDIO = {"audio_hidden": 8, "audio_tokens": 2, "audio_token_dim": 8, "mask_predictor": True}
FRAMES = DiTConfig(**_SIZES, **_AUDIO, image_injection="frames")
CHANNELS = DiTConfig(**_SIZES, **_AUDIO, image_injection="channels", in_channels=36)


def tiny_model(dit: DiTConfig = FRAMES) -> ModelConfig:
    return replace(
        NANO,
        dit=dit,
        vae=replace(NANO.vae, base_dim=8),
        text_encoder=TextEncoderConfig(vocab_size=300, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2),
        audio_encoder=AudioEncoderConfig(d_model=16, num_layers=4, num_heads=1, ffn_dim=8, num_mel_bins=80),
        height=32,
        width=32,
    )


def write_frozen(folder: Path, model: ModelConfig) -> None:
    """Random weights of everything but the DiT, in this project's own layout."""
    from safetensors.torch import save_file

    from humo_rt.model.encoders import build_audio_encoder, build_text_encoder
    from humo_rt.model.vae import VideoVAE
    from humo_rt.weights.random_init import byte_tokenizer

    torch.manual_seed(0)
    networks = {
        "vae": VideoVAE(model.vae).autoencoder,
        "text_encoder": build_text_encoder(model.text_encoder),
        "audio_encoder": build_audio_encoder(model.audio_encoder),
    }
    for name, network in networks.items():
        tensors = {key: value.clone().contiguous() for key, value in network.state_dict().items()}
        save_file(tensors, folder / f"{name}.safetensors")
    byte_tokenizer().backend_tokenizer.save(str(folder / "tokenizer.json"))


@dataclass(frozen=True, kw_only=True)
class NoiseSource:
    """Clips of noise, each its own; clip 0 is silent and has no face."""

    clips: int = 6

    def open(self, split, count, size, device):
        return _Noise(count or self.clips, size, device)


class _Noise:
    def __init__(self, count, size, device) -> None:
        self.count, self.size, self.device = count, size, device

    def __len__(self) -> int:
        return self.count

    def clips(self, indices: Sequence[int]) -> Clips:
        size, count = self.size, len(indices)
        frame = (3, size.height, size.width)

        def noise(name: str, *shape: int) -> torch.Tensor:
            """0..1, of every clip its own."""
            seeds = [derive_seed(index, name) for index in indices]
            drawn = [torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
            return torch.stack(drawn).to(self.device)

        audible_B = torch.tensor([index > 0 for index in indices], device=self.device)
        face = torch.zeros(count, size.num_frames, size.height, size.width, dtype=torch.bool, device=self.device)
        face[:, :, :16, :16] = audible_B.view(-1, 1, 1, 1)
        mouth = torch.zeros_like(face)
        mouth[:, 1:, 10, 10] = True
        return Clips(
            video_BFCHW=noise("video", size.num_frames, *frame).mul(255).byte(),
            references_BRCHW=noise("references", 2, *frame).mul(255).byte(),
            audio_BS=noise("sound", size.num_frames * 640) * 0.2 - 0.1,
            has_audio_B=audible_B,
            face_BFHW=face,
            mouth_BFHW=mouth,
            captions=[[f"p{index}", f"q{index}"] for index in indices],
            captions_anonymous=[["who"] if index % 2 else [] for index in indices],
        )


def tiny_task(weights: Path, *, dit: DiTConfig = FRAMES, **changes) -> DiTTaskConfig:
    settings = {"stage": "sync", "batch_size": 2, "num_frames": 9, "previews": 0, "source": NoiseSource()}
    return DiTTaskConfig(**{"model": tiny_model(dit), "weights": str(weights), **settings, **changes})
