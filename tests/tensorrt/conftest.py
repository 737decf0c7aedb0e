"""Exports of the nano model with random weights, each made once for the whole run: tracing takes most of the time."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest
import torch

from humo_rt.config import PRESETS
from humo_rt.model.dit import HumoDiT
from humo_rt.tensorrt.export import Exported, export_onnx
from humo_rt.tensorrt.source import Source
from humo_rt.weights.modules import build_on_meta, part_dtype
from humo_rt.weights.random_init import fill_random


def nano_dit(dtype: torch.dtype, seed: int = 0) -> HumoDiT:
    """Nano's DiT, as ``Pipeline.from_pretrained("nano", weights="random")`` loads it for seed 0."""
    dit = build_on_meta(PRESETS["nano"])["dit"]
    fill_random(dit, part="dit", seed=seed, dtype=part_dtype("dit", dtype), device="cpu")
    return dit.eval().requires_grad_(False)


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
