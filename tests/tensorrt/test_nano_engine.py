"""Engines of the real export of nano, built for two kinds of RTX card without a GPU. None of them can run here."""

from __future__ import annotations

import pytest
import tensorrt_rtx
import torch

from humo_rt.config import PRESETS
from humo_rt.sampling.guidance import guidance_table
from humo_rt.tensorrt import build
from humo_rt.tensorrt.build import BuildSettings, build_engine
from humo_rt.tensorrt.build_log import Messages, collecting_logger
from humo_rt.tensorrt.engine_file import mapped_plan
from humo_rt.tensorrt.network import parse, read_graph
from humo_rt.tensorrt.profiles import MAX_REFERENCES
from humo_rt.tensorrt.refit import copy_weights, require_fitting
from humo_rt.tensorrt.targets import load_tensorrt
from humo_rt.tensorrt.weights import EMBEDDED, SEPARATE, read_weights
from tests.tensorrt import plan_layout
from tests.tensorrt.conftest import with_other_weights

TARGETS = {"rtx4090": (8, 9), "rtx5090": (12, 0)}
SECONDS_FOR_ALL = 300
_FREE = ("branches", "frames", "height", "width", "rows", "columns")


@pytest.fixture(scope="module", params=TARGETS)
def built(request, nano_bfloat16, tmp_path_factory):
    path = tmp_path_factory.mktemp("engine") / "dit.engine"
    return build_engine(nano_bfloat16.exported.path, path, settings=BuildSettings(target=request.param))


def plan_of(path):
    with mapped_plan(path) as plan:
        return bytes(plan)


def described(bindings):
    """As the plan has it: -1 for a free size."""
    return {
        binding.name: plan_layout.Tensor(
            dtype=binding.dtype, shape=tuple(-1 if axis in _FREE else axis for axis in binding.axes)
        )
        for binding in bindings
    }


def parsed(export):
    """The network as TensorRT sees it, with what must outlive it."""
    tensorrt, messages = load_tensorrt("tensorrt-rtx"), Messages()
    logger = collecting_logger(tensorrt_rtx, messages)
    builder = tensorrt_rtx.Builder(logger)
    graph = read_graph(export.exported.path)
    return parse(graph, builder, tensorrt, logger, weights=EMBEDDED), graph.spec, messages, builder


def test_no_node_is_unsupported_or_falls_back(built):
    assert built.fallbacks == ()
    assert built.warnings == ()
    assert built.notes == ()


def test_it_is_built_in_time(built):
    assert built.seconds <= SECONDS_FOR_ALL / len(TARGETS)


def test_the_plan_is_for_its_target(built):
    plan = plan_of(built.path)
    assert built.header.capability == TARGETS[built.header.target]
    assert plan_layout.architectures(plan) - {"*"} == {"sm{}{}".format(*built.header.capability)}


def test_the_plan_keeps_float32_and_can_be_captured(built):
    plan = plan_of(built.path)
    assert plan_layout.settings(plan, "tf32") == {"0"}
    assert plan_layout.settings(plan, "stream_capturable") == {"1"}


def test_the_plan_has_the_bindings_of_its_header(built):
    spec = built.header.spec
    assert plan_layout.tensors(plan_of(built.path)) == described((*spec.inputs, *spec.outputs))


def test_the_plan_has_the_limits_of_its_header(built):
    spec = built.header.spec
    (profile,) = built.header.profiles
    expected = [profile.shapes(binding, spec.config) for binding in spec.inputs]
    assert plan_layout.limits(plan_of(built.path)) == expected


def test_the_profile_reaches_to_the_presets_size(built):
    (profile,) = built.header.profiles
    nano = PRESETS["nano"]
    rows = guidance_table(nano, "TIA").rows
    assert profile.largest.branches == max(len(row.weights) for row in rows)
    assert (profile.largest.height, profile.largest.width) == (nano.height // 8, nano.width // 8)
    assert profile.largest.frames == (nano.num_frames - 1) // 4 + 1 + MAX_REFERENCES
    assert profile.smallest.branches == 1


def test_the_engine_has_the_size_that_the_build_makes_room_for(built, nano_bfloat16):
    weights = read_graph(nano_bfloat16.exported.path).nbytes
    assert weights <= built.path.stat().st_size <= weights + build._KERNEL_BYTES


@pytest.mark.parametrize("export", ["nano_float32", "nano_bfloat16"])
def test_the_network_has_the_bindings_with_their_types_and_free_axes(export, request):
    network, spec, messages, _builder = parsed(request.getfixturevalue(export))
    definition = network.definition
    for count, get, expected in (
        (definition.num_inputs, definition.get_input, spec.inputs),
        (definition.num_outputs, definition.get_output, spec.outputs),
    ):
        assert count == len(expected)
        for index, binding in enumerate(expected):
            tensor = get(index)
            assert tensor.name == binding.name
            names = {torch.float32: "FLOAT", torch.bfloat16: "BF16"}
            assert tensor.dtype.name == names[binding.dtype]
            free = [axis in _FREE for axis in binding.axes]
            assert [size == -1 for size in tensor.shape] == free or binding in spec.outputs
    assert messages.errors == []


@pytest.mark.parametrize("built", ["rtx4090"], indirect=True)
def test_separate_weights_leave_the_engine_and_others_fit(built, nano_bfloat16, tmp_path):
    onnx_file, path = nano_bfloat16.exported.path, tmp_path / "dit.engine"
    header = build_engine(onnx_file, path, settings=BuildSettings(target="rtx4090", weights=SEPARATE)).header
    own = {name: values.clone() for name, values in read_weights(onnx_file, header.weight_bindings)}
    assert path.stat().st_size + sum(values.nbytes for values in own.values()) <= built.path.stat().st_size
    taken = {name: plan_layout.Tensor(dtype=values.dtype, shape=tuple(values.shape)) for name, values in own.items()}
    assert plan_layout.tensors(plan_of(path)) == described((*header.spec.inputs, *header.spec.outputs)) | taken

    other = with_other_weights(onnx_file, tmp_path / "other.onnx")
    require_fitting(header, other, str(path))
    destination = {name: torch.empty_like(values) for name, values in own.items()}
    copy_weights(destination, header, other)
    assert any(name.endswith(".T") for name in own)
    for name, values in own.items():
        assert torch.equal(destination[name], values / 2 if name.endswith(".T") else values)


def test_an_engine_that_keeps_its_weights_takes_no_others(built, nano_bfloat16):
    with pytest.raises(ValueError, match="holds its weights for good: build it with --engine-weights separate"):
        require_fitting(built.header, nano_bfloat16.exported.path, str(built.path))
