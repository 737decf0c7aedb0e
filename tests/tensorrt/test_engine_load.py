"""Loading an engine file on a machine with a card, which is a fake one: weights, streaming, refit, the timing cache."""

from __future__ import annotations

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import tensorrt_rtx as trt
import torch

from humo_rt.config import HUMO_1_7B
from humo_rt.tensorrt import DitEngine, loading, open_dit, require_openable
from humo_rt.tensorrt import engine as engine_module
from humo_rt.tensorrt import plan as plan_module
from humo_rt.tensorrt import refit as refit_module
from humo_rt.tensorrt.engine import Engine
from humo_rt.tensorrt.engine_file import WeightBinding, read_header, write_engine
from humo_rt.tensorrt.exportable import ExportableDiT
from humo_rt.tensorrt.fingerprint import Fingerprint
from humo_rt.tensorrt.graph_dit import keep_context_projections
from humo_rt.tensorrt.profiles import profiles_for
from humo_rt.tensorrt.source import Origin, Source
from humo_rt.tensorrt.spec import GraphSpec
from humo_rt.tensorrt.targets import RTX, TensorRT
from humo_rt.tensorrt.weights import EMBEDDED, REFITTABLE, SEPARATE, STRIPPED
from tests.tensorrt import fake_tensorrt
from tests.tensorrt.conftest import tiny_dit
from tests.tensorrt.small_graphs import save_scaling, tiny_spec

AUTOMATIC = 4096
WEIGHTS = tuple(WeightBinding(name=name, dtype="float32", shape=(16, 1, 1, 1)) for name in ("gain", "offset"))


@pytest.fixture
def card(monkeypatch, tmp_path):
    """Writes an engine file and loads it with a fake TensorRT on a fake RTX 4090."""
    dit = tiny_dit(HUMO_1_7B)
    spec = GraphSpec(config=dit.config, dtype=torch.float32)
    profiles = profiles_for(dit.config, sizes=[(48, 32)], num_frames=9, branches=4)
    fakes = []

    def write(**fields):
        save_scaling(tmp_path / "dit.onnx", spec)
        header = fake_tensorrt.header(spec, profiles)
        fields = {"onnx": str(tmp_path / "dit.onnx")} | fields
        write_engine(tmp_path / "dit.engine", dataclasses.replace(header, **fields), b"plan")
        return tmp_path / "dit.engine"

    def load_plan(path, header, tensorrt):
        fake = fake_tensorrt.Engine(ExportableDiT(dit, mask_predictor=False), spec, profiles, header.weight_bindings)
        fake.get_weight_streaming_automatic_budget = lambda: AUTOMATIC
        fakes.append(fake)
        return fake_tensorrt.loaded(fake)

    monkeypatch.setattr(engine_module, "load_plan", load_plan)
    tensorrt = TensorRT(package=RTX, module=None, version="1.0")
    monkeypatch.setattr(loading, "load_tensorrt", lambda package: tensorrt)
    monkeypatch.setattr(loading, "current_capability", lambda: (8, 9))
    monkeypatch.setattr(engine_module, "current_device", lambda: torch.device("cpu"))
    return SimpleNamespace(dit=dit, write=write, fakes=fakes)


def origin_of(dit, source="random") -> Origin:
    return Origin(source=Source(model="humo-1.7b", weights=source), fingerprint=Fingerprint.of(dit))


def changed(dit, name: str):
    """A copy whose tensor ``name`` is another."""
    other = copy.deepcopy(dit)
    other.get_parameter(name).mul_(1.5).add_(0.5)
    return other


LORA = Source(model="humo-1.7b", weights="lora")


@pytest.mark.parametrize("name", ["blocks.0.self_attn.q.weight", "blocks.0.cross_attn.k.weight", "head.head.bias"])
def test_an_engine_of_other_weights_is_refused_before_it_is_loaded(card, name):
    Engine.load(card.write(origin=origin_of(card.dit)), card.dit)
    path = card.write(origin=origin_of(changed(card.dit, name)))
    with pytest.raises(
        ValueError, match=rf"--weights random, but those of .*--weights lora are loaded \({name} has"
    ) as error:
        Engine.load(path, card.dit, loaded_from=LORA)
    export = "humo-rt export --preset humo-1.7b --weights lora --precision float32 --output"
    assert f"export the latter with {export} {path.with_name('dit.onnx')}, and build the engine" in str(error.value)
    assert str(error.value).endswith(f"build the engine again with {read_header(path).rebuild}")
    assert len(card.fakes) == 1


def test_weights_that_are_put_in_are_those_compared(card, tmp_path):
    lora = changed(card.dit, "blocks.0.ffn.0.weight")
    path = card.write(weights=SEPARATE, weight_bindings=WEIGHTS, origin=origin_of(card.dit))
    spec = read_header(path).spec
    others = save_scaling(tmp_path / "lora.onnx", spec, seed=1, origin=origin_of(lora, "lora"))
    with pytest.raises(ValueError, match=r"lora.onnx was exported from .*blocks.0.ffn.0.weight has"):
        Engine.load(path, card.dit, onnx=others)
    assert not card.fakes
    loaded = Engine.load(path, lora, onnx=others)
    assert loaded.header.origin == origin_of(lora, "lora")
    assert read_header(path).origin == origin_of(card.dit)
    with pytest.raises(ValueError, match=r"own.onnx was exported from"):
        loaded.refit(save_scaling(tmp_path / "own.onnx", spec, origin=origin_of(card.dit)))


def test_of_a_dit_that_only_projects_the_context_no_more_is_compared(card, tmp_path):
    path = card.write(weights=SEPARATE, weight_bindings=WEIGHTS)
    loaded = Engine.load(path, keep_context_projections(copy.deepcopy(card.dit)))
    blocks, context = (changed(card.dit, f"blocks.0.{name}.weight") for name in ("ffn.0", "cross_attn.v"))
    loaded.refit(save_scaling(tmp_path / "blocks.onnx", loaded.spec, origin=origin_of(blocks)))
    with pytest.raises(ValueError, match="blocks.0.cross_attn.v.weight has"):
        loaded.refit(save_scaling(tmp_path / "context.onnx", loaded.spec, origin=origin_of(context)))


@pytest.mark.parametrize("weights", [STRIPPED, SEPARATE])
def test_an_engine_without_weights_finds_them_beside_itself(card, tmp_path, monkeypatch, weights):
    given = []
    monkeypatch.setattr(engine_module, "refit", lambda engine, tensorrt, logger, onnx: given.append(onnx))
    monkeypatch.setattr(engine_module, "copy_weights", lambda destination, header, onnx: given.append(onnx))
    path = card.write(weights=weights, onnx="/gone/dit.onnx")
    Engine.load(path, card.dit)
    assert given == [tmp_path / "dit.onnx"]
    (tmp_path / "dit.onnx").unlink()
    with pytest.raises(
        ValueError, match=rf"built with {weights} weights, so it has none.*neither .* nor /gone/dit.onnx"
    ):
        Engine.load(path, card.dit)
    other = save_scaling(tmp_path / "other.onnx", read_header(path).spec)
    open_dit(DitEngine(path, onnx=other), card.dit)
    assert given[1:] == [other]


def test_a_budget_is_refused_where_it_means_nothing(card, tmp_path):
    with pytest.raises(ValueError, match="for an engine that streams its weights, which .*dit.engine does not"):
        open_dit(DitEngine(card.write(), weight_budget=1000), card.dit)
    with pytest.raises(ValueError, match="weight budget -1 is below 0"):
        Engine.load(card.write(weight_streaming=True), card.dit, weight_budget=-1)
    with pytest.raises(ValueError, match="holds its weights, weight_budget=1000 is for engines: leave it out"):
        open_dit(DitEngine(tmp_path / "dit.onnx", weight_budget=1000), card.dit)


def test_what_can_be_refused_is_refused_without_the_weights(card):
    require_openable(card.write(), card.dit.config)
    with pytest.raises(ValueError, match="exported from another model"):
        require_openable(card.write(), dataclasses.replace(card.dit.config, ffn_dim=8))
    with pytest.raises(ValueError, match="built with tensorrt-rtx 0.9, but 1.0 is installed"):
        require_openable(card.write(package_version="0.9"), card.dit.config)
    graph = save_scaling(card.write().with_name("other.onnx"), tiny_spec(dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="another graph"):
        require_openable(DitEngine(card.write(weights=STRIPPED), onnx=graph), card.dit.config)
    assert not card.fakes


@pytest.mark.parametrize(("asked", "budget"), [(None, AUTOMATIC), (1000, 1000)])
def test_weights_are_streamed_within_the_budget(card, asked, budget):
    Engine.load(card.write(weight_streaming=True), card.dit, weight_budget=asked)
    assert card.fakes[0].weight_streaming_budget_v2 == budget


def test_an_engine_built_without_streaming_has_no_budget(card):
    Engine.load(card.write(), card.dit)
    assert not hasattr(card.fakes[0], "weight_streaming_budget_v2")


def test_separate_weights_are_read_and_replaced_in_place(card, tmp_path):
    loaded = Engine.load(card.write(weights=SEPARATE, weight_bindings=WEIGHTS), card.dit)
    first = {name: tensor.clone() for name, tensor in loaded._weights.items()}
    addresses = {name: tensor.data_ptr() for name, tensor in loaded._weights.items()}
    assert all(tensor.count_nonzero() for tensor in first.values())
    loaded.refit(save_scaling(tmp_path / "other.onnx", loaded.spec, seed=1))
    assert {name: tensor.data_ptr() for name, tensor in loaded._weights.items()} == addresses
    assert not any(torch.equal(tensor, first[name]) for name, tensor in loaded._weights.items())


def test_a_stripped_engine_gets_the_weights_it_was_built_from(card, monkeypatch):
    given = []
    monkeypatch.setattr(engine_module, "refit", lambda engine, tensorrt, logger, onnx: given.append(onnx))
    path = card.write(weights=STRIPPED)
    loaded = Engine.load(path, card.dit)
    assert given == [path.with_name("dit.onnx")]
    loaded.refit(path.with_name("dit.onnx"))
    assert len(given) == 2


def test_other_weights_than_the_engines_model_are_refused(card, tmp_path):
    loaded = Engine.load(card.write(weights=SEPARATE, weight_bindings=WEIGHTS), card.dit)
    other = save_scaling(tmp_path / "other.onnx", tiny_spec(dtype=torch.bfloat16))
    with pytest.raises(ValueError, match=r"other.onnx is another graph than .*dit.engine was built of"):
        loaded.refit(other)
    with pytest.raises(ValueError, match="holds its weights for good"):
        Engine.load(card.write(), card.dit, onnx=other)


@pytest.mark.parametrize(
    ("accepted", "missing", "message"),
    [(True, [], None), (False, [], "broken file"), (True, ["head"], "head is missing")],
)
def test_refitting_lists_what_tensorrt_rejects(accepted, missing, message):
    parser = SimpleNamespace(
        refit_from_file=lambda path: accepted,
        num_errors=0 if accepted else 1,
        get_error=lambda index: SimpleNamespace(desc=lambda: "broken file"),
    )
    refitter = SimpleNamespace(get_missing_weights=lambda: missing, refit_cuda_engine=lambda: True)
    module = SimpleNamespace(Refitter=lambda *_: refitter, OnnxParserRefitter=lambda *_: parser)
    tensorrt = TensorRT(package=RTX, module=module, version="1.0")
    if message is None:
        refit_module.refit(None, tensorrt, None, "dit.onnx")
    else:
        with pytest.raises(RuntimeError, match=f"did not take the weights of dit.onnx: {message}"):
            refit_module.refit(None, tensorrt, None, "dit.onnx")
    assert {"get_missing_weights", "refit_cuda_engine"} <= set(dir(trt.Refitter))
    assert {"refit_from_file", "num_errors", "get_error"} <= set(dir(trt.OnnxParserRefitter))


@pytest.mark.parametrize("weights", [REFITTABLE, STRIPPED, EMBEDDED])
def test_flags_say_which_weights_can_be_replaced(weights):
    config = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR)).create_builder_config()
    plan_module._set_flags(config, trt, weights, False)
    assert config.get_flag(trt.BuilderFlag.REFIT) == (weights != EMBEDDED)
    assert config.get_flag(trt.BuilderFlag.STRIP_PLAN) == (weights == STRIPPED)


def test_a_foreign_timing_cache_is_refused(tmp_path):
    (tmp_path / "timings").write_bytes(b"foreign")
    config = SimpleNamespace(create_timing_cache=lambda stored: stored, set_timing_cache=lambda cache, anyway: False)
    with pytest.raises(ValueError, match="timings belongs to another card or version of TensorRT: delete it"):
        plan_module._load_timing_cache(config, tmp_path / "timings")


def test_a_file_that_was_cut_off_is_refused_when_it_is_loaded(card):
    path = card.write()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="rebuild it with humo-rt build-engine"):
        Engine.load(path, card.dit)
    assert read_header(card.write()).plan_bytes == 4
