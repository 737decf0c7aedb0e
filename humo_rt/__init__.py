"""HuMo as a runtime: text, reference images and audio in, a video of a person speaking out.

    import humo_rt
    result = humo_rt.generate("A woman is talking.", image="face.png", audio="speech.wav", output="out.mp4")

Importing this package loads none of its parts: each is imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from humo_rt.conditions.face import DetectFaces
    from humo_rt.config import PRESETS
    from humo_rt.options import GenerateOptions
    from humo_rt.pipeline import Pipeline, generate
    from humo_rt.request import GenerationRequest
    from humo_rt.result import GenerationResult
    from humo_rt.sampling.guidance import GuidanceRow, GuidanceTable
    from humo_rt.sampling.reuse import GuidanceReuse

    __version__: str

_HOMES = {
    "PRESETS": "humo_rt.config",
    "DetectFaces": "humo_rt.conditions.face",
    "generate": "humo_rt.pipeline",
    "Pipeline": "humo_rt.pipeline",
    "GenerateOptions": "humo_rt.options",
    "GenerationRequest": "humo_rt.request",
    "GenerationResult": "humo_rt.result",
    "GuidanceReuse": "humo_rt.sampling.reuse",
    "GuidanceRow": "humo_rt.sampling.guidance",
    "GuidanceTable": "humo_rt.sampling.guidance",
}

__all__ = [
    "PRESETS",
    "DetectFaces",
    "GenerateOptions",
    "GenerationRequest",
    "GenerationResult",
    "GuidanceReuse",
    "GuidanceRow",
    "GuidanceTable",
    "Pipeline",
    "generate",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value = _installed_version()
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'humo_rt' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


def _installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("humo-rt")
    except PackageNotFoundError:
        raise AttributeError("humo_rt has no __version__ where it is not installed: pip install -e .") from None
