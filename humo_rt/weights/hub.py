"""Download published checkpoints through huggingface_hub, into its cache.

Knows which repositories hold which parts of which model. Knows nothing of what the files contain.
"""

from __future__ import annotations

import logging
from pathlib import Path

logger = logging.getLogger(__name__)

HUMO_REPOSITORY = "bytedance-research/HuMo"

_SHARED = {
    "Wan-AI/Wan2.1-T2V-1.3B": ("Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl/*"),
    "openai/whisper-large-v3": ("config.json", "model.safetensors"),
}
_PUBLISHED = {
    "humo-17b": {HUMO_REPOSITORY: ("HuMo-17B/*", "zero_vae_*.pt"), **_SHARED},
    "humo-1.7b": {HUMO_REPOSITORY: ("HuMo-1.7B/*", "zero_vae_*.pt"), **_SHARED},
}


def is_published(preset_name: str) -> bool:
    """Whether the preset's weights can be downloaded."""
    return preset_name in _PUBLISHED


def looks_like_repository(text: str) -> bool:
    """``owner/name``, and nothing of that name on this disk."""
    parts = text.split("/")
    return len(parts) == 2 and all(parts) and not text.startswith((".", "~")) and not Path(text).exists()


def download(preset_name: str) -> list[Path]:
    """Fetch what model ``preset_name`` consists of (or find it in the cache) and return the folders holding it.

    ``RuntimeError`` when a repository can be neither reached nor found in the cache.
    """
    return [_snapshot(repository, patterns) for repository, patterns in _PUBLISHED[preset_name].items()]


def download_repository(repository: str) -> Path:
    """Fetch a whole repository (a model saved in this project's own layout) and return its folder."""
    return _snapshot(repository, None)


def _snapshot(repository: str, patterns: tuple[str, ...] | None) -> Path:
    from huggingface_hub import snapshot_download

    logger.info("looking for %s in the Hugging Face cache, downloading what is missing", repository)
    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns) if patterns else None))
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise RuntimeError(
            f"{repository} is no folder here and cannot be downloaded ({reason}): connect to the internet, or run "
            f"`hf download {repository}` elsewhere, copy the folder here and pass it as weights"
        ) from error
