"""What an export holds, and that a failed one leaves nothing behind."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import onnx
import onnx_ir
import pytest
import torch

from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.tensorrt.engine_file import WeightBinding
from humo_rt.tensorrt.export import export_onnx
from humo_rt.tensorrt.fingerprint import Fingerprint
from humo_rt.tensorrt.network import read_graph
from humo_rt.tensorrt.onnx_file import write_onnx
from humo_rt.tensorrt.session import OnnxDiT
from humo_rt.tensorrt.source import Source
from humo_rt.tensorrt.weights import read_weights
from tests.tensorrt.conftest import tiny_dit
from tests.tensorrt.small_graphs import ONNX_DTYPES, scaling_model, tiny_spec

MINIMUM_SINGLE_NODES = {"Attention", "RMSNormalization", "RotaryEmbedding", "LayerNormalization", "Gelu"}


@pytest.mark.parametrize("export", ["nano_float32", "nano_bfloat16"])
def test_inputs_and_outputs_are_those_of_the_bindings(export, request):
    exported = request.getfixturevalue(export).exported
    graph = read_graph(exported.path)
    assert graph.spec == exported.spec
    assert graph.opset == 23
    for values, bindings in (
        (graph.model.graph.input, graph.spec.inputs),
        (graph.model.graph.output, graph.spec.outputs),
    ):
        for value, binding in zip(values, bindings, strict=True):
            assert value.name == binding.name
            assert value.type.tensor_type.elem_type == ONNX_DTYPES[binding.dtype]
            sizes = value.type.tensor_type.shape.dim
            assert tuple(size.dim_param or size.dim_value for size in sizes) == binding.axes


@pytest.mark.parametrize("export", ["nano_float32", "nano_bfloat16"])
def test_single_nodes_are_used_once_per_occurrence(export, request):
    nodes = request.getfixturevalue(export).exported.nodes
    layers = 8
    assert set(nodes) >= MINIMUM_SINGLE_NODES
    assert nodes["Attention"] == 3 * layers  # self, text, audio
    assert nodes["RotaryEmbedding"] == 2 * layers  # queries and keys
    assert nodes["RMSNormalization"] >= 4 * layers


def test_weights_keep_their_names(nano_float32):
    model = onnx.load(nano_float32.exported.path)
    stored = {tensor.name.removesuffix(".T") for tensor in model.graph.initializer}
    expected = {name for name, _ in nano_float32.dit.blocks.named_parameters(prefix="blocks") if "self_attn" in name}
    assert expected <= stored


def test_an_export_says_which_weights_it_has(nano_float32, nano_bfloat16):
    named, unnamed = (read_graph(nano.exported.path).origin for nano in (nano_float32, nano_bfloat16))
    assert named.source == Source(model="nano", weights="random")
    assert unnamed.source is None
    assert named.fingerprint == Fingerprint.of(nano_float32.dit)
    assert unnamed.fingerprint == Fingerprint.of(nano_bfloat16.dit)


@torch.no_grad()
def test_condition_channels_are_an_input(tmp_path):
    dit = tiny_dit(HUMO_17B)
    exported = export_onnx(dit, tmp_path / "dit.onnx")
    session = OnnxDiT.load(exported.path, dit)
    arguments = {
        "x_BCTHW": torch.randn(2, 16, 3, 4, 6),
        "timestep_B": torch.tensor([900.0, 10.0]),
        "condition": torch.randn(2, 20, 3, 4, 6),
    }
    context = (torch.randn(2, 32, 16), torch.randn(2, 3, 8, 5, 16))
    found = session(**arguments, context=session.project_context(*context))
    expected = dit(**arguments, context=dit.project_context(*context))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
    with pytest.raises(ValueError, match="takes no face mask: export it with --face-mask"):
        session(**arguments, context=session.project_context(*context), face_mask=torch.ones(2, 3, 4, 6))


def test_large_weights_go_into_a_file_of_their_own(tmp_path):
    dit = tiny_dit(HUMO_1_7B, torch.float16)
    written = []
    exported = export_onnx(dit, tmp_path / "dit.onnx", embedded_bytes=1000, progress=lambda *step: written.append(step))
    assert exported.data == tmp_path / "dit.onnx.data"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dit.onnx", "dit.onnx.data"]
    assert {stage for stage, _, _ in written} == {"tracing", "translating", "simplifying", "writing"}
    assert exported.spec.dtype == torch.float16
    graph = read_graph(exported.path)
    weight = next(t for t in graph.model.graph.initializer if t.name == "blocks.0.ffn.0.weight.T")
    binding = WeightBinding(name=weight.name, dtype="float16", shape=tuple(weight.dims))
    ((_, values),) = read_weights(exported.path, [binding])
    assert torch.equal(values, dit.blocks[0].ffn[0].weight.t())
    exported.data.unlink()
    with pytest.raises(ValueError, match="keeps its weights in dit.onnx.data, which is not there"):
        OnnxDiT.load(exported.path, dit)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dit.pt", {}, "must end in .onnx"),
        ("absent/dit.onnx", {}, "does not exist: create it first"),
        ("dit.onnx", {"mask_predictor": True}, "has no mask predictor"),
    ],
)
def test_bad_input_is_refused_before_any_work(tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message):
        export_onnx(tiny_dit(HUMO_1_7B), tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_model():
    return onnx_ir.serde.deserialize_model(scaling_model(tiny_spec()))


@pytest.mark.parametrize("embedded_bytes", [0, 10**6], ids=["weights beside", "weights inside"])
def test_a_disk_that_fills_up_leaves_the_older_model(tmp_path, monkeypatch, small_model, embedded_bytes):
    path = tmp_path / "dit.onnx"
    path.write_bytes(b"older")

    def save(model, target, **options):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onnx_ir, "save", save)
    with pytest.raises(RuntimeError, match=r"cannot write .*dit.onnx \(the disk is full\): make room"):
        write_onnx(small_model, path, embedded_bytes=embedded_bytes)
    assert [file.name for file in tmp_path.iterdir()] == ["dit.onnx"]
    assert path.read_bytes() == b"older"


def test_too_little_space_is_said_before_writing(tmp_path, monkeypatch, small_model):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(RuntimeError, match=r"GB are free: make room"):
        write_onnx(small_model, tmp_path / "dit.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_older_weights_file_does_not_outlive_its_model(tmp_path, small_model):
    path = tmp_path / "dit.onnx"
    assert write_onnx(small_model, path, embedded_bytes=0) == tmp_path / "dit.onnx.data"
    assert write_onnx(small_model, path) is None
    assert [file.name for file in tmp_path.iterdir()] == ["dit.onnx"]
