"""What a comparison reads off a file, and what it refuses."""

from __future__ import annotations

import onnx
import pytest
import torch

from humo_rt.tensorrt import source
from humo_rt.tensorrt.source import SOURCE_KEY, Source
from humo_rt.tensorrt.spec import METADATA_KEY
from humo_rt.tensorrt.verify_plan import plan_of
from tests.tensorrt.small_graphs import save_scaling, scaling_model, tiny_spec

OTHER = Source(model="nano", weights="elsewhere")


@pytest.fixture
def silent(tmp_path):
    """An ONNX file that does not say where its weights came from."""
    return save_scaling(tmp_path / "dit.onnx", tiny_spec())


def test_unknown_weights_have_to_be_named(silent):
    with pytest.raises(ValueError, match=r"weights of .*dit.onnx are unknown.*give --preset, --weights"):
        plan_of(silent, None)
    assert plan_of(silent, OTHER).source == OTHER


def test_named_weights_come_before_those_of_the_export(tmp_path):
    model, spec = scaling_model(tiny_spec()), tiny_spec()
    stored = Source(model="humo-1.7b", weights="random")
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json(), SOURCE_KEY: stored.to_json()})
    onnx.save(model, tmp_path / "dit.onnx")
    assert plan_of(tmp_path / "dit.onnx", None).source == stored
    assert plan_of(tmp_path / "dit.onnx", OTHER).source == OTHER


def test_a_model_that_is_no_preset_is_compared_at_small_sizes(silent):
    plan = plan_of(silent, OTHER)
    assert plan.spec == tiny_spec()
    assert plan.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert [size.height * size.width for size in plan.sizes] == [24, 96]


def test_a_missing_package_is_said(silent, monkeypatch):
    def require(*packages):
        raise RuntimeError(f"{packages[0]} is not installed")

    monkeypatch.setattr(source, "require", require)
    with pytest.raises(RuntimeError, match="onnx is not installed"):
        source.source_of(silent)
