"""A model's configuration as ``config.json`` beside its weights.

Knows how the dataclasses of ``humo_rt.config`` become JSON and back; strict about names and types both ways.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from humo_rt.config import AudioEncoderConfig, DiTConfig, ModelConfig, TextEncoderConfig, VAEConfig

FILE_NAME = "config.json"

_NESTED = {"dit": DiTConfig, "vae": VAEConfig, "text_encoder": TextEncoderConfig, "audio_encoder": AudioEncoderConfig}


def write_config(config: ModelConfig, folder: Path) -> Path:
    """Write ``folder/config.json`` and return its path."""
    path = folder / FILE_NAME
    path.write_text(json.dumps(asdict(config), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read_config(path: Path) -> ModelConfig:
    """Read a file that ``write_config`` wrote. ``ValueError`` names the file and what in it is wrong."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("expected a JSON object")
        nested = {key: _build(kind, values.pop(key), key) for key, kind in _NESTED.items() if key in values}
        return _build(ModelConfig, {**values, **nested}, "model")
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f"{path}: not a model configuration ({error}): write it with write_config") from error


def _build(kind: type, values: dict[str, Any], where: str) -> Any:
    known = {field.name for field in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"unknown names in {where}: {', '.join(unknown)}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
