"""Exports of the nano model with random weights, each made once for the whole run: tracing takes most of the time."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest
import torch

from humo_rt.config import PRESETS, DiTConfig, ModelConfig
from humo_rt.model.dit import HumoDiT
from humo_rt.tensorrt.export import Exported, export_onnx
from humo_rt.tensorrt.source import Source
from humo_rt.weights.modules import build_on_meta, part_dtype
from humo_rt.weights.random_init import fill_random
from tests.tiny import tiny_config


def nano_dit(dtype: torch.dtype, seed: int = 0) -> HumoDiT:
    """Nano's DiT, as ``Pipeline.from_pretrained("nano", weights="random")`` loads it for seed 0."""
    dit = build_on_meta(PRESETS["nano"])["dit"]
    fill_random(dit, part="dit", seed=seed, dtype=part_dtype("dit", dtype), device="cpu")
    return dit.eval().requires_grad_(False)


def tiny_dit(published: ModelConfig, dtype: torch.dtype = torch.float32, **changes) -> HumoDiT:
    """A DiT of a few channels in the layout of ``published``, with random weights and one block."""
    config = tiny_config(published, **({"num_layers": 1, "mask_predictor": False} | changes))
    dit = build_on_meta(config)["dit"]
    fill_random(dit, part="dit", seed=0, dtype=part_dtype("dit", dtype), device="cpu")
    return dit.eval().requires_grad_(False)


def forward_arguments(config: DiTConfig, size: tuple[int, int, int], branches: int = 2, *, masked: bool = False):
    """Seeded arguments of a forward pass and those of ``project_context``. ``size``: latent frames, height, width."""
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(branches, *shape, generator=generator)

    arguments = {"x_BCTHW": noise(16, *size), "timestep_B": torch.linspace(950, 20, branches)}
    if config.image_injection == "channels":
        arguments["condition"] = noise(20, *size)
    if masked:
        arguments["face_mask"] = (noise(*size) > 0).float()
    text = noise(config.text_len, config.text_dim)
    return arguments, (text, noise(size[0], config.audio_window, config.audio_bands, config.audio_dim))


@dataclasses.dataclass(frozen=True)
class NanoExport:
    """``dit`` is what was exported."""

    dit: HumoDiT
    exported: Exported


@pytest.fixture(scope="session")
def nano_float32(tmp_path_factory) -> NanoExport:
    """With the face mask and the mask predictor, in float32."""
    dit = nano_dit(torch.float32)
    path = tmp_path_factory.mktemp("nano") / "dit.onnx"
    source = Source(model="nano", weights="random")
    return NanoExport(dit, export_onnx(dit, path, face_mask=True, mask_predictor=True, source=source))


@pytest.fixture(scope="session")
def nano_bfloat16(tmp_path_factory) -> NanoExport:
    """The default export: neither face mask nor mask predictor, in bfloat16."""
    dit = nano_dit(torch.bfloat16)
    return NanoExport(dit, export_onnx(dit, tmp_path_factory.mktemp("nano") / "dit.onnx"))


def with_other_weights(onnx_file: Path, written: Path) -> Path:
    """The same graph with every matrix halved, as another checkpoint of the model would be exported."""
    model = onnx.load(onnx_file)
    for tensor in model.graph.initializer:
        if tensor.name.endswith(".T"):
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            halved = onnx.numpy_helper.to_array(tensor) * dtype.type(0.5)
            tensor.CopyFrom(onnx.numpy_helper.from_array(halved, tensor.name))
    onnx.save(model, written)
    return written
