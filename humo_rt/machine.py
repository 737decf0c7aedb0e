"""What this machine offers: processor, memory, GPUs, packages, codecs, attention and matmul backends.

Asks and reports; changes nothing. Knows what the project requires, but not which model is wanted.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from humo_rt.config import HUMO_1_7B
from humo_rt.runtime import attention_backends, matmul_backends
from humo_rt.runtime.attention_backends import AttentionSurvey
from humo_rt.runtime.matmul_backends import MatmulSurvey
from humo_rt.tensorrt.targets import engine_support
from humo_rt.weights.memory import available_memory

_REQUIRED = ("torch", "diffusers", "transformers", "safetensors", "av", "soundfile", "soxr", "pillow", "ftfy")
_OPTIONAL = (
    "huggingface_hub",
    "sentencepiece",
    "triton",
    "flash-attn-4",
    "quack-kernels",
    "tensorrt-rtx",
    "tensorrt",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorboard",
    "opencv-python-headless",
)
_CODECS = ("libx264", "aac")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One NVIDIA GPU; memory in bytes."""

    name: str
    total: int
    free: int
    capability: str


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Findings; memory in bytes, versions as text (``version`` is humo-rt's own), None for what is not there.
    ``problems`` prevent any generation."""

    version: str | None
    python: str
    system: str
    cores: int
    free_memory: int
    gpus: tuple[Gpu, ...]
    cuda: str | None
    driver: str | None
    packages: dict[str, str | None]
    codecs: dict[str, bool]
    compiled_kernels: bool
    attention: AttentionSurvey
    matmul: MatmulSurvey
    engines: str
    problems: tuple[str, ...]


def examine_machine() -> Machine:
    """Look at everything once. Takes a second or two: PyAV and torch are imported. Longer on a GPU whose backends
    compile when they are tried for the first time."""
    packages = _packages()
    codecs = _codecs()
    problems = [f"package {name} is not installed: pip install {name}" for name in _REQUIRED if packages[name] is None]
    if packages["av"] is not None:
        problems += [
            f"codec {name} is not in PyAV's ffmpeg: reinstall PyAV from its wheel (pip install --force av)"
            for name, there in codecs.items()
            if not there
        ]
    default = _default()
    return Machine(
        version=_version("humo-rt"),
        python=platform.python_version(),
        system=platform.platform(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        free_memory=available_memory(torch.device("cpu")),
        gpus=_gpus(),
        cuda=torch.version.cuda,
        driver=_driver(),
        packages=packages,
        codecs=codecs,
        compiled_kernels=importlib.util.find_spec("humo_rt._C") is not None,
        attention=attention_backends.survey(*default, HUMO_1_7B.dit.head_dim),
        matmul=matmul_backends.survey(*default, HUMO_1_7B.dit.dim),
        engines=engine_support(),
        problems=tuple(problems),
    )


def _packages() -> dict[str, str | None]:
    found = {name: _version(name) for name in (*_REQUIRED, *_OPTIONAL)}
    # Two distributions of one module: what the other one brings is not missing.
    if found["onnxruntime-gpu"] is None:
        del found["onnxruntime-gpu"]
    elif found["onnxruntime"] is None:
        del found["onnxruntime"]
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _codecs() -> dict[str, bool]:
    try:
        import av
        from av.codec.codec import UnknownCodecError
    except ImportError:
        return dict.fromkeys(_CODECS, False)
    found = {}
    for name in _CODECS:
        try:
            av.codec.Codec(name, "w")
            found[name] = True
        except UnknownCodecError:
            found[name] = False
    return found


def _gpus() -> tuple[Gpu, ...]:
    if not torch.cuda.is_available():
        return ()
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        capability = f"{properties.major}.{properties.minor}"
        found.append(Gpu(name=properties.name, total=total, free=free, capability=capability))
    return tuple(found)


def _driver() -> str | None:
    """The kernel module's version; it can be there although torch sees no GPU, which is worth knowing."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    match = re.search(r"\s(\d+\.\d+(\.\d+)?)\s", text)
    return match[1] if match else None


def _default() -> tuple[torch.device, torch.dtype]:
    """Where and in what a pipeline of a published model runs by default here."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device()), torch.bfloat16
    return torch.device("cpu"), torch.float32
