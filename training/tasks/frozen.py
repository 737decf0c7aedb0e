"""The networks a DiT is trained with but that do not learn: video autoencoder, text encoder, audio encoder.

Finds them in a folder laid out like the published weights or like this project's own, and loads them for inference.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from humo_rt.conditions.audio import AudioConditioner
from humo_rt.conditions.text import TextConditioner, load_tokenizer
from humo_rt.config import ModelConfig
from humo_rt.model.encoders import build_audio_encoder, build_text_encoder
from humo_rt.model.vae import VideoVAE
from humo_rt.weights.layout import describe_missing, survey
from humo_rt.weights.load import load_into
from humo_rt.weights.names import Rename, umt5_name, vae_rename, whisper_name
from humo_rt.weights.readers import read_checkpoint

logger = logging.getLogger(__name__)

_PARTS = ("vae", "text_encoder", "tokenizer", "audio_encoder")
_HASHED_BYTES = 64 * 1024**2


@dataclass(frozen=True)
class Frozen:
    """``vae`` works on videos, ``text`` on prompts, ``audio`` on sound. ``identity`` tells sets of files apart."""

    vae: VideoVAE
    text: TextConditioner
    audio: AudioConditioner
    identity: str


def load_frozen(model: ModelConfig, folder: Path, device: torch.device, dtype: torch.dtype) -> Frozen:
    """Load everything but the DiT from ``folder``. ``ValueError`` lists the parts that are not there."""
    files = survey(folder, model.name)
    if missing := [part for part in _PARTS if part not in files]:
        raise ValueError("; ".join(describe_missing(folder, model.name, part) for part in missing))
    with torch.device("meta"):
        vae = VideoVAE(model.vae)
        text_encoder = build_text_encoder(model.text_encoder)
        audio_encoder = build_audio_encoder(model.audio_encoder)
    _fill(vae.autoencoder, files["vae"], vae_rename(model.vae.num_res_blocks), device, torch.float32)
    _fill(text_encoder, files["text_encoder"], umt5_name, device, dtype)
    _fill(audio_encoder, files["audio_encoder"], whisper_name, device, dtype)
    logger.info("frozen networks from %s", folder)
    return Frozen(
        vae.eval().requires_grad_(False),
        TextConditioner(load_tokenizer(files["tokenizer"]), text_encoder, model.dit.text_len),
        AudioConditioner(audio_encoder, model.audio_encoder.num_mel_bins),
        "-".join(_fingerprint(files[part]) for part in _PARTS),
    )


def _fill(module: nn.Module, path: Path, rename: Rename, device: torch.device, dtype: torch.dtype) -> None:
    load_into(module, read_checkpoint(path), rename=rename, dtype=dtype, device=device, optional=(), source=str(path))
    module.requires_grad_(False)


def _fingerprint(path: Path) -> str:
    """Short hash of a file's size and first 64 MiB; of a folder's file names."""
    if path.is_dir():
        return hashlib.blake2b(repr(sorted(p.name for p in path.iterdir())).encode(), digest_size=6).hexdigest()
    with path.open("rb") as file:
        digest = hashlib.blake2b(file.read(_HASHED_BYTES), digest_size=6)
    digest.update(str(path.stat().st_size).encode())
    return digest.hexdigest()
