"""Loading an engine file on a machine with a card, which is a fake one: weights, streaming, refit, the timing cache."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import tensorrt_rtx as trt
import torch

from humo_rt.config import HUMO_1_7B
from humo_rt.tensorrt import engine as engine_module
from humo_rt.tensorrt import plan as plan_module
from humo_rt.tensorrt import refit as refit_module
from humo_rt.tensorrt.build_log import Messages
from humo_rt.tensorrt.engine import Engine
from humo_rt.tensorrt.engine_file import WeightBinding, read_header, write_engine
from humo_rt.tensorrt.exportable import ExportableDiT
from humo_rt.tensorrt.network import read_graph
from humo_rt.tensorrt.plan import compile_plan
from humo_rt.tensorrt.profiles import profiles_for
from humo_rt.tensorrt.spec import GraphSpec
from humo_rt.tensorrt.targets import RTX, TARGETS, TensorRT, load_tensorrt
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
        write_engine(
            tmp_path / "dit.engine", dataclasses.replace(header, onnx=str(tmp_path / "dit.onnx"), **fields), b"plan"
        )
        return tmp_path / "dit.engine"

    def load_plan(path, header, tensorrt):
        fake = fake_tensorrt.Engine(ExportableDiT(dit, mask_predictor=False), spec, profiles, header.weight_bindings)
        fake.get_weight_streaming_automatic_budget = lambda: AUTOMATIC
        fakes.append(fake)
        return fake_tensorrt.loaded(fake)

    monkeypatch.setattr(engine_module, "load_plan", load_plan)
    tensorrt = TensorRT(package=RTX, module=None, version="1.0")
    monkeypatch.setattr(engine_module, "load_tensorrt", lambda package: tensorrt)
    monkeypatch.setattr(engine_module, "require_gpu", lambda header, path: (8, 9))
    monkeypatch.setattr(engine_module, "current_device", lambda: torch.device("cpu"))
    return SimpleNamespace(dit=dit, write=write, fakes=fakes)


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
    with pytest.raises(ValueError, match=r"other.onnx is another model or precision than .*dit.engine"):
        loaded.refit(other)
    with pytest.raises(ValueError, match="holds its weights for good"):
        Engine.load(card.write(), card.dit, weights=other)


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


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops.*:DeprecationWarning")
def test_a_timing_cache_is_written_and_read_again(tmp_path):
    spec, cache, kept = tiny_spec(), tmp_path / "timings", []
    graph = read_graph(save_scaling(tmp_path / "dit.onnx", spec))
    options = {
        "tensorrt": load_tensorrt(RTX),
        "target": TARGETS["rtx4090"],
        "weights": EMBEDDED,
        "weight_streaming": False,
        "timing_cache": cache,
        "on_progress": lambda *step: None,
    }
    for _ in range(2):
        compile_plan(
            graph,
            profiles_for(spec.config, sizes=[(48, 32)], num_frames=9, branches=4),
            messages=Messages(),
            **options,
        )
        kept.append(cache.read_bytes())
    assert kept[0] == kept[1] != b""


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
