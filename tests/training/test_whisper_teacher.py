from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from training import whisper_teacher
from training.whisper_teacher import encoder_weights, load_teacher, read_ctranslate2, write_compact


def _text(value: str) -> bytes:
    data = value.encode() + b"\0"
    return struct.pack("<H", len(data)) + data


def _file(tensors: dict[str, np.ndarray], version: int = 6, specification: str = "WhisperSpec") -> bytes:
    data = struct.pack("<I", version) + _text(specification) + struct.pack("<II", 3, len(tensors))
    types = {np.dtype(np.float32): 0, np.dtype(np.int16): 2, np.dtype(np.float16): 4}
    for name, value in tensors.items():
        data += _text(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        data += struct.pack("<BI", types[value.dtype], value.nbytes) + value.tobytes()
    return data


def _encoder_tensors() -> dict[str, np.ndarray]:
    """Random weights under CTranslate2's names, in the shapes of Whisper base."""
    rng = np.random.default_rng(0)
    width, ffn = 512, 2048
    shapes = {"position_encodings/encodings": (1500, width), "conv1/weight": (width, 80, 3), "conv1/bias": (width,)}
    shapes |= {"conv2/weight": (width, width, 3), "conv2/bias": (width,)}
    shapes |= {f"layer_norm/{kind}": (width,) for kind in ("gamma", "beta")}
    linears = {"self_attention/linear_0": (3 * width, width), "self_attention/linear_1": (width, width)}
    linears |= {"ffn/linear_0": (ffn, width), "ffn/linear_1": (width, ffn)}
    for layer in range(6):
        for name, shape in linears.items():
            shapes |= {f"layer_{layer}/{name}/weight": shape, f"layer_{layer}/{name}/bias": shape[:1]}
        for block in ("self_attention", "ffn"):
            shapes |= {f"layer_{layer}/{block}/layer_norm/{kind}": (width,) for kind in ("gamma", "beta")}
    draw = {name: rng.standard_normal(shape, dtype=np.float32) * 0.02 for name, shape in shapes.items()}
    return {f"encoder/{name}": value.astype(np.float16) for name, value in draw.items()}


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return encoder_weights(read_ctranslate2(_file(_encoder_tensors())))


def test_tensors_come_back_with_name_shape_and_type():
    tensors = {"a/b": np.arange(6, dtype=np.float16).reshape(2, 3), "n": np.array(4, np.int16)}
    read = read_ctranslate2(_file(tensors))
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        assert read[name].dtype == value.dtype
        np.testing.assert_array_equal(read[name], value)


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="TransformerSpec"):
        read_ctranslate2(_file({}, specification="TransformerSpec"))


def test_stacked_projections_are_separated(weights):
    source = _encoder_tensors()
    stacked = torch.from_numpy(source["encoder/layer_2/self_attention/linear_0/weight"].astype(np.float32))
    assert torch.equal(weights["layers.2.self_attn.k_proj.weight"], stacked[512:1024])
    assert "layers.2.self_attn.k_proj.bias" not in weights


def test_a_compact_file_gives_nearly_the_same_teacher(weights, tmp_path):
    write_compact(weights, tmp_path / "teacher.safetensors")
    assert (tmp_path / "teacher.safetensors").stat().st_size < 22e6
    teacher = load_teacher(tmp_path / "teacher.safetensors")
    for name, value in teacher.state_dict().items():
        assert (value - weights[name]).abs().max() <= weights[name].abs().max() / 200
    assert not any(p.requires_grad for p in teacher.parameters())


def test_an_absent_teacher_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(whisper_teacher, "_PARTS", (("no_such_package_1", "data/model.bin.part1"),))
    with pytest.raises(RuntimeError, match=r"no-such-package-1.*humo-rt\[train\]"):
        load_teacher()
    with pytest.raises(RuntimeError, match="python -m"):
        load_teacher(tmp_path / "absent.safetensors")
