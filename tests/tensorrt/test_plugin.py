"""Audio attention as a plugin: the node means what the model computes, TensorRT builds it, the kernel gets its data."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorrt_rtx as trt
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import humo_rt
from humo_rt.config import HUMO_1_7B
from humo_rt.kernels.audio_face_attention.reference import reference
from humo_rt.model.attention import AudioAttention
from humo_rt.tensorrt import loading, plugin
from humo_rt.tensorrt.audio_node import DOMAIN, EPSILON, NAME
from humo_rt.tensorrt.engine_file import mapped_plan, read_header
from humo_rt.tensorrt.export import export_onnx
from humo_rt.tensorrt.graph_dit import GraphDiT
from humo_rt.tensorrt.network import read_graph
from humo_rt.tensorrt.session import OnnxDiT
from humo_rt.tensorrt.spec import GraphSpec
from humo_rt.tensorrt.targets import FULL, RTX, TensorRT, load_tensorrt
from tests.tensorrt import fake_tensorrt
from tests.tensorrt.conftest import forward_arguments, tiny_dit

EPS = 3e-6
SHAPES = ((2, 12, 32), (32,), (1, 2, 3, 4, 5, 8))  # q, norm weight, keys: 3 frames of 4 tokens, 4 heads of 8


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A DiT in float32 with two blocks, and its export with plugins and a face mask."""
    dit = tiny_dit(HUMO_1_7B, num_layers=2)
    return dit, export_onnx(dit, tmp_path_factory.mktemp("plugin") / "dit.onnx", face_mask=True, plugins=True)


def test_each_block_has_one_node(exported):
    dit, export = exported
    assert export.nodes[NAME] == 2
    assert export.nodes["Attention"] == 2 * 2  # of the video and of the text
    assert all(type(block.audio_cross_attn_wrapper.audio_cross_attn) is AudioAttention for block in dit.blocks)


class ReferenceNode(OpRun):
    op_domain = DOMAIN

    def _run(self, q, norm_weight, k, v, eps=None, plugin_version=None):
        tensors = (torch.tensor(array) for array in (q, norm_weight, k, v))
        return (reference(*tensors, None, eps).numpy(),)


ReferenceNode.__name__ = NAME


class EvaluatedDiT(GraphDiT):
    """The graph run node by node by ONNX's own reference."""

    def run(self, inputs):
        session = ReferenceEvaluator(self.source, new_ops=[ReferenceNode])
        names = [binding.name for binding in self.spec.outputs]
        found = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: torch.from_numpy(values) for name, values in zip(names, found, strict=True)}


@torch.no_grad()
def test_the_node_means_what_the_model_computes(exported):
    dit, export = exported
    graph = EvaluatedDiT(dit, export.spec, str(export.path))
    arguments, context = forward_arguments(dit.config, (3, 4, 6), masked=True)
    found = graph(**arguments, context=graph.project_context(*context))
    expected = dit(**arguments, context=dit.project_context(*context))
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_onnx_runtime_is_not_asked_to_run_it(exported):
    dit, export = exported
    with pytest.raises(ValueError, match="holds TensorRT plugins: build an engine of it, or export it without"):
        OnnxDiT.load(export.path, dit)
    assert read_graph(export.path).spec.plugins


@pytest.fixture(scope="module")
def found_library(tmp_path_factory):
    """A folder in which TensorRT for RTX's parser finds its library by the name it looks for."""
    import tensorrt_rtx_libs

    folder = tmp_path_factory.mktemp("library")
    (folder / "libtensorrt_rtx.so").symlink_to(Path(tensorrt_rtx_libs.__file__).with_name("libtensorrt_rtx.so.1"))
    return folder


@pytest.mark.parametrize("target", ["rtx4090", "rtx5090"])
def test_engines_are_built_without_a_gpu(exported, found_library, tmp_path, target):
    _, export = exported
    path = tmp_path / "dit.engine"
    options = f"--target {target} --size 48x32 --num-frames 9 --branches 4 --output".split()
    # In a process of its own: the loader reads its search path when a process starts.
    command = [sys.executable, "-c", "from humo_rt.cli import main; main()", "build-engine", str(export.path)]
    result = subprocess.run(
        [*command, *options, str(path)],
        env=os.environ | {"LD_LIBRARY_PATH": str(found_library)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "unsupported" not in result.stderr
    assert read_header(path).spec.plugins
    with mapped_plan(path) as plan:
        assert NAME.encode() in bytes(plan)


def test_a_library_that_the_parser_cannot_find_is_named_with_the_line_that_helps(monkeypatch, tmp_path):
    monkeypatch.setattr(plugin, "_opens", lambda library: False)
    where = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(plugin.importlib.util, "find_spec", lambda name: where)
    link = tmp_path / "libtensorrt_rtx.so"
    with pytest.raises(RuntimeError, match=f"reads plugins only where.*: ln -s libtensorrt_rtx.so.1 {link}"):
        plugin.require_parser(load_tensorrt(RTX))
    link.touch()
    plugin.require_parser(load_tensorrt(RTX))


def at(address, shape, strides=None):
    """float32 memory as a tensor."""
    shape = torch.Size(shape)
    memory = (ctypes.c_char * (4 * shape.numel())).from_address(address)
    flat = torch.frombuffer(memory, dtype=torch.float32)
    return flat.as_strided(shape, strides) if strides else flat.reshape(shape)


class Kernel:
    """Stands in for ``humo_rt._C``: computes the operator's reference at the addresses it is given."""

    DType = SimpleNamespace(float32="f32", float16="f16", bfloat16="bf16")

    @staticmethod
    def audio_face_attention(
        *, out, q, norm_weight, k, v, face, workspace, dtype, sizes, q_strides, k_strides, v_strides, eps, stream
    ):
        speakers, batch, frames, tokens, heads, keys, head_dim = sizes
        q_shape, kv_shape = (batch, frames * tokens, heads * head_dim), (speakers, batch, frames, heads, keys, head_dim)
        inputs = (at(q, q_shape, (*q_strides, 1)), at(norm_weight, q_shape[2:]))
        pair = (at(k, kv_shape, (*k_strides, 1)), at(v, kv_shape, (*v_strides, 1)))
        assert (face, workspace, dtype, stream) == (0, 78, "f32", 77)
        at(out, q_shape).copy_(reference(*inputs, *pair, None, eps))


@pytest.fixture(params=[RTX, FULL])
def tensorrt(request, monkeypatch):
    """Either package; the full one through the same classes, its parser needing nothing."""
    monkeypatch.setattr(plugin, "_registered", {})
    creators = {}
    registry = SimpleNamespace(register_creator=lambda creator, domain: creators.setdefault(domain, creator) is creator)
    module = SimpleNamespace(**vars(trt) | {"get_plugin_registry": lambda: registry})
    return TensorRT(package=request.param, module=module, version="1.0"), creators


def test_the_plugin_hands_its_inputs_to_the_kernel(tensorrt, monkeypatch):
    monkeypatch.setattr(humo_rt, "_C", Kernel, raising=False)
    package, creators = tensorrt
    plugin.require_parser(TensorRT(package=FULL, module=package.module, version="1.0"))
    plugin.register(package)
    plugin.register(package)
    fields = trt.PluginFieldCollection([plugin._epsilon_field(trt, EPS)])
    made = creators[DOMAIN].create_plugin("node", fields, trt.TensorRTPhase.RUNTIME)
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator) for shape in (*SHAPES, SHAPES[2])]
    out = torch.full(SHAPES[0], torch.nan)
    described = [SimpleNamespace(dims=tensor.shape, type=trt.DataType.FLOAT) for tensor in inputs]
    addresses = [tensor.data_ptr() for tensor in inputs]
    made.clone().attach_to_context(None).enqueue(described, described[:1], addresses, [out.data_ptr()], 78, 77)
    assert torch.equal(out, reference(*inputs, None, EPS))


def test_the_plugin_describes_itself(tensorrt):
    package, creators = tensorrt
    plugin.register(package)
    fields = trt.PluginFieldCollection([plugin._epsilon_field(trt, EPS)])
    made = creators[DOMAIN].create_plugin("node", fields, trt.TensorRTPhase.BUILD)
    (stored,) = made.get_fields_to_serialize()
    assert (stored.name, stored.data.item()) == (EPSILON, pytest.approx(EPS))
    assert made.get_output_data_types([trt.DataType.BF16, trt.DataType.FLOAT]) == [trt.DataType.BF16]
    largest = [SimpleNamespace(max=shape) for shape in ((4, 60, 256), (256,), (1, 4, 3, 4, 8, 64), (1, 4, 3, 4, 8, 64))]
    assert made.get_workspace_size(largest, []) == 2 * 4 * 3 * 4 * 16 * 64

    def accepts(*types, position, layout=trt.TensorFormat.LINEAR):
        described = [SimpleNamespace(desc=SimpleNamespace(type=kind, format=layout)) for kind in types]
        return made.supports_format_combination(position, described, 4)

    half, single = trt.DataType.HALF, trt.DataType.FLOAT
    assert all(accepts(half, single, half, half, half, position=position) for position in range(5))
    assert not accepts(half, half, half, half, half, position=1)
    assert not accepts(half, single, single, half, half, position=2)
    assert not accepts(trt.DataType.INT32, single, position=0)
    assert not accepts(half, position=0, layout=trt.TensorFormat.HWC)


def test_an_engine_with_plugins_needs_the_kernel_and_registers_before_loading(tensorrt, monkeypatch, tmp_path):
    package, creators = tensorrt
    spec = GraphSpec(config=tiny_dit(HUMO_1_7B).config, dtype=torch.float32, plugins=True)
    header = fake_tensorrt.header(spec, ())
    monkeypatch.setattr(plugin.registry, "unavailable", lambda op, backend: "built without CUDA")
    with pytest.raises(RuntimeError, match=f"dit.engine runs the plugin {NAME}, .*: built without CUDA"):
        loading.load_plan(tmp_path / "dit.engine", header, package)
    assert not creators
    monkeypatch.setattr(plugin.registry, "unavailable", lambda op, backend: None)
    with pytest.raises(ValueError, match="does not exist"):
        loading.load_plan(tmp_path / "dit.engine", header, package)
    assert list(creators) == [DOMAIN]
