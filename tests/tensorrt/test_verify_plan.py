"""What a comparison reads off a file, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from humo_rt.tensorrt import loading, verify_plan
from humo_rt.tensorrt.engine_file import write_engine
from humo_rt.tensorrt.profiles import profiles_for
from humo_rt.tensorrt.source import Source
from humo_rt.tensorrt.targets import RTX, TensorRT
from humo_rt.tensorrt.verify_plan import plan_of
from tests.tensorrt import fake_tensorrt
from tests.tensorrt.small_graphs import NO_ORIGIN, save_scaling, tiny_spec

OTHER = Source(model="nano", weights="elsewhere")
RANDOM = Source(model="humo-1.7b", weights="random")


@pytest.fixture
def silent(tmp_path):
    """An ONNX file that does not say where its weights came from."""
    return save_scaling(tmp_path / "dit.onnx", tiny_spec())


def test_unknown_weights_have_to_be_named(silent):
    with pytest.raises(ValueError, match=r"dit.onnx does not name the weights .*: give --preset, --weights"):
        plan_of(silent, None)
    assert plan_of(silent, OTHER).source == OTHER


def test_named_weights_come_before_those_of_the_export(tmp_path):
    file = save_scaling(tmp_path / "dit.onnx", tiny_spec(), origin=dataclasses.replace(NO_ORIGIN, source=RANDOM))
    assert plan_of(file, None).source == RANDOM
    assert plan_of(file, OTHER).source == OTHER


def test_a_model_that_is_no_preset_is_compared_at_small_sizes(silent):
    plan = plan_of(silent, OTHER)
    assert plan.spec == tiny_spec()
    assert plan.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert [size.height * size.width for size in plan.sizes] == [24, 96]


def test_a_missing_package_is_said(silent, monkeypatch):
    def require(*packages):
        raise RuntimeError(f"{packages[0]} is not installed")

    monkeypatch.setattr(verify_plan, "require", require)
    with pytest.raises(RuntimeError, match="onnx is not installed"):
        plan_of(silent, None)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An engine whose ONNX file stayed on another machine, on a card it was built for; changed on the way."""

    def write(**changes) -> Path:
        spec = tiny_spec()
        header = fake_tensorrt.header(spec, profiles_for(spec.config, sizes=[(48, 32)], num_frames=9, branches=4))
        write_engine(tmp_path / "dit.engine", dataclasses.replace(header, onnx="/gone/dit.onnx", **changes), b"plan")
        return tmp_path / "dit.engine"

    monkeypatch.setattr(loading, "current_capability", lambda: (8, 9))
    monkeypatch.setattr(loading, "load_tensorrt", lambda name: TensorRT(package=RTX, module=None, version="1.0"))
    return write


def test_an_engine_names_its_weights_wherever_it_goes(elsewhere):
    plan = plan_of(elsewhere(origin=dataclasses.replace(NO_ORIGIN, source=RANDOM)), None)
    assert plan.source == RANDOM
    assert plan.spec == tiny_spec()
    assert plan.device.type == "cuda"


def test_an_engine_is_compared_with_the_weights_it_is_given(elsewhere, tmp_path):
    engine = elsewhere(weights="stripped", origin=dataclasses.replace(NO_ORIGIN, source=OTHER))
    with pytest.raises(ValueError, match="built with stripped weights, so it has none"):
        plan_of(engine, None)
    given = save_scaling(tmp_path / "given.onnx", tiny_spec(), origin=dataclasses.replace(NO_ORIGIN, source=RANDOM))
    assert plan_of(engine, None, onnx=given).source == RANDOM


def test_weights_that_are_not_on_this_machine_are_named(elsewhere):
    there = Source(model="humo-1.7b", weights="/models/HuMo")
    with pytest.raises(
        ValueError,
        match=r"dit.engine was exported from the weights of --preset humo-1.7b --weights /models/HuMo, which are not "
        r"on this machine .*: say where they are with --preset, --weights",
    ):
        plan_of(elsewhere(origin=dataclasses.replace(NO_ORIGIN, source=there)), None)


def test_an_engine_that_cannot_run_here_is_refused_before_its_weights_are_looked_for(elsewhere, monkeypatch):
    with pytest.raises(ValueError, match="built with tensorrt-rtx 0.9, but 1.0 is installed: rebuild it"):
        plan_of(elsewhere(package_version="0.9"), None)
    with pytest.raises(ValueError, match=r"built for rtx5090 \(compute capability 12.0\), but this GPU has 8.9"):
        plan_of(elsewhere(target="rtx5090", capability=(12, 0)), None)
    monkeypatch.setattr(loading, "current_capability", lambda: None)
    said = r"runs on rtx4090 \(compute capability 8.9\) only.*check it there with humo-rt verify-engine dit.engine"
    with pytest.raises(RuntimeError, match=said):
        plan_of(elsewhere(), None)
