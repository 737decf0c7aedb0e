"""ONNX files that are not what they should be: each is refused before anything is compiled."""

from __future__ import annotations

import json

import onnx
import pytest
import tensorrt_rtx
import torch

from humo_rt.tensorrt.network import parse, read_graph
from humo_rt.tensorrt.source import ORIGIN_KEY
from humo_rt.tensorrt.spec import METADATA_KEY
from humo_rt.tensorrt.targets import RTX, load_tensorrt
from humo_rt.tensorrt.weights import onnx_digest, read_weights, separate_weights
from tests.tensorrt.small_graphs import NO_ORIGIN, save_scaling, scaling_model, tiny_spec


@pytest.fixture
def onnx_file(tmp_path):
    return save_scaling(tmp_path / "dit.onnx", tiny_spec())


def parsed(path, **options):
    tensorrt = load_tensorrt(RTX)
    logger = tensorrt_rtx.Logger(tensorrt_rtx.Logger.INTERNAL_ERROR)
    return parse(
        read_graph(path), tensorrt_rtx.Builder(logger), tensorrt, logger, **({"weights": "embedded"} | options)
    )


def test_a_graph_says_what_it_is(onnx_file):
    graph = read_graph(onnx_file)
    assert graph.spec == tiny_spec()
    assert graph.opset == 23
    assert graph.nbytes == 2 * 16 * 4


@pytest.mark.parametrize("content", [b"hello" * 100, b""])
def test_junk_is_refused(tmp_path, content):
    path = tmp_path / "junk.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"junk.onnx (is no ONNX file|was not exported by humo-rt)"):
        read_graph(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist: write one with humo-rt export"):
        read_graph(tmp_path / "dit.onnx")


def test_an_onnx_file_of_another_project_is_refused(tmp_path, onnx_file):
    model = onnx.load(onnx_file)
    del model.metadata_props[:]
    onnx.save(model, onnx_file)
    with pytest.raises(ValueError, match="was not exported by humo-rt"):
        read_graph(onnx_file)


def test_an_export_of_another_version_is_refused(onnx_file):
    model = onnx.load(onnx_file)
    fields = json.loads(model.metadata_props[0].value)
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(fields | {"format": -1})})
    onnx.save(model, onnx_file)
    with pytest.raises(ValueError, match="exported by another version of humo-rt: export it again"):
        read_graph(onnx_file)


@pytest.mark.parametrize("opset", [17, 22, 24, 99])
def test_a_foreign_opset_is_refused(tmp_path, opset):
    path = save_scaling(tmp_path / "dit.onnx", tiny_spec(), opset=opset)
    with pytest.raises(
        ValueError, match=f"uses opset {opset}, and only 23 was .*: export it again with this version's humo-rt export"
    ):
        read_graph(path)


def test_operators_of_another_domain_are_refused(tmp_path):
    path = save_scaling(tmp_path / "dit.onnx", tiny_spec(), domain="com.microsoft")
    with pytest.raises(ValueError, match=r"uses operators of com.microsoft: export it again with plain ONNX"):
        read_graph(path)


def test_weights_that_stayed_behind_are_named(tmp_path):
    path = save_scaling(tmp_path / "dit.onnx", tiny_spec(), external=True)
    (other,) = set(tmp_path.iterdir()) - {path}
    other.unlink()
    with pytest.raises(ValueError, match=f"keeps its weights in {other.name}, which is not there: put it beside it"):
        read_graph(path)


@pytest.mark.parametrize("kept", [0, 64, 127])
def test_weights_that_were_cut_off_are_found_before_a_build(tmp_path, kept):
    path = save_scaling(tmp_path / "dit.onnx", tiny_spec(), external=True)
    data = tmp_path / "dit.onnx.data"
    data.write_bytes(data.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"dit.onnx.data has {kept} bytes, and '(gain|offset)' of .*: copy it again"):
        read_graph(path)


def test_the_network_has_the_inputs_of_the_description(onnx_file):
    network = parsed(onnx_file).definition
    names = [network.get_input(index).name for index in range(network.num_inputs)]
    assert names == [binding.name for binding in tiny_spec().inputs]
    assert network.get_output(0).name == "velocity"


def test_another_name_of_an_input_is_refused(tmp_path):
    path = save_scaling(tmp_path / "dit.onnx", tiny_spec(), renamed="audio_keys")
    with pytest.raises(
        ValueError, match=r"is not what it says it is \(audio_keys: None instead of .*audio_keys_renamed"
    ):
        parsed(path)


def test_another_dtype_than_described_is_refused(tmp_path):
    model = scaling_model(tiny_spec(dtype=torch.float16))
    described = {METADATA_KEY: tiny_spec(dtype=torch.bfloat16).to_json(), ORIGIN_KEY: NO_ORIGIN.to_json()}
    onnx.helper.set_model_props(model, described)
    onnx.save(model, tmp_path / "dit.onnx")
    with pytest.raises(ValueError, match=r"text_keys: \('float16', .*\) instead of \('bfloat16'"):
        parsed(tmp_path / "dit.onnx")


def test_every_node_that_cannot_be_read_is_listed(tmp_path, onnx_file):
    model = onnx.load(onnx_file)
    for node, operator in zip(model.graph.node, ("Mystery", "Enigma"), strict=True):
        node.op_type = operator
    onnx.save(model, onnx_file)
    with pytest.raises(RuntimeError, match=r"tensorrt-rtx .* cannot read .*dit.onnx: .*scale \(Mystery\)"):
        parsed(onnx_file)


def test_separate_weights_are_inputs_with_the_shapes_they_had(onnx_file):
    network = parsed(onnx_file, weights="separate")
    assert [(weight.name, weight.dtype, weight.shape) for weight in network.weight_bindings] == [
        ("gain", "float32", (16, 1, 1, 1)),
        ("offset", "float32", (16, 1, 1, 1)),
    ]
    assert network.definition.num_inputs == len(tiny_spec().inputs) + 2


@pytest.mark.parametrize("external", [False, True])
def test_weights_are_read_wherever_they_are_stored(tmp_path, external):
    path = save_scaling(tmp_path / "dit.onnx", tiny_spec(), external=external)
    model = scaling_model(tiny_spec())
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name, values in read_weights(path, separate_weights(model)):
        assert torch.equal(values, torch.from_numpy(stored[name].copy()))


def test_every_float_dtype_is_read(tmp_path):
    values = torch.randn(3, 4)
    for dtype, onnx_dtype in ((torch.bfloat16, onnx.TensorProto.BFLOAT16), (torch.float16, onnx.TensorProto.FLOAT16)):
        raw = values.to(dtype).view(torch.int16).numpy().tobytes()
        tensor = onnx.helper.make_tensor("w", onnx_dtype, (3, 4), raw, raw=True)
        onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor])), tmp_path / "w.onnx")
        bindings = separate_weights(onnx.load(tmp_path / "w.onnx"))
        ((_, read),) = read_weights(tmp_path / "w.onnx", bindings)
        assert read.dtype == dtype
        assert torch.equal(read, values.to(dtype))


def test_weights_of_another_shape_or_name_are_refused(onnx_file):
    bindings = separate_weights(scaling_model(tiny_spec()))
    model = onnx.load(onnx_file)
    model.graph.initializer[0].dims[:] = [4, 4, 1, 1]
    onnx.save(model, onnx_file)
    with pytest.raises(ValueError, match=r"'gain' of .* is float32 \[4, 4, 1, 1\], the engine takes float32 \[16, 1,"):
        list(read_weights(onnx_file, bindings))
    model.graph.initializer[0].name = "other"
    onnx.save(model, onnx_file)
    with pytest.raises(ValueError, match="has no weight 'gain': give an export of the engine's own model"):
        list(read_weights(onnx_file, bindings))


def test_all_weights_are_checked_before_the_first_is_read(onnx_file):
    model = onnx.load(onnx_file)
    bindings = separate_weights(scaling_model(tiny_spec()))
    assert len(bindings) > 1
    model.graph.initializer[-1].name = "other"
    onnx.save(model, onnx_file)
    with pytest.raises(ValueError, match="has no weight"):
        next(read_weights(onnx_file, bindings))


@pytest.mark.parametrize("external", [False, True])
def test_the_digest_follows_the_weights(tmp_path, external):
    digests = set()
    for seed in (0, 1, 1):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        digests.add(onnx_digest(save_scaling(folder / "dit.onnx", tiny_spec(), external=external, seed=seed)))
    assert len(digests) == 2
