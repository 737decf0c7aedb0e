"""Cards, the package that builds for each, and what is said when it is not there."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import tensorrt_rtx

from humo_rt.tensorrt import targets
from humo_rt.tensorrt.targets import FULL, RTX, TARGETS, engine_support, find_target, load_tensorrt


class FullTensorRT(ModuleType):
    """The data-centre package as far as targets ask: no list of compute capabilities."""

    __version__ = "11.4.0"
    Builder = object


@pytest.fixture
def full_tensorrt(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", FullTensorRT("tensorrt"))


def test_rtx_cards_are_built_without_a_gpu_and_the_others_with_the_full_package():
    assert {name for name, target in TARGETS.items() if target.package == RTX} == {"rtx4090", "rtx5090"}
    assert {name for name, target in TARGETS.items() if target.package == FULL} == {"a100", "h100", "h200", "b200"}


@pytest.mark.parametrize("name", ["rtx4090", "rtx5090"])
def test_the_builder_is_aimed_at_the_card(name):
    tensorrt = load_tensorrt(RTX)
    config = tensorrt_rtx.Builder(tensorrt_rtx.Logger()).create_builder_config()
    tensorrt.aim(config, find_target(name))
    assert config.num_compute_capabilities == 1
    major, minor = TARGETS[name].capability
    assert config.get_compute_capability(0).name == f"SM{major}{minor}"


def test_a_card_that_the_package_does_not_know_is_refused():
    tensorrt = load_tensorrt(RTX)
    config = tensorrt_rtx.Builder(tensorrt_rtx.Logger()).create_builder_config()
    with pytest.raises(ValueError, match=r"builds no engines for h100 \(compute capability 9.0\): choose rtx4090"):
        tensorrt.aim(config, TARGETS["h100"])


def test_an_unknown_card_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown target 'rtx3080': choose one of rtx4090, .*, current"):
        find_target("rtx3080")


def test_the_current_card_decides_the_package(monkeypatch):
    monkeypatch.setattr(targets, "current_capability", lambda: (12, 0))
    assert find_target("current").package == RTX
    monkeypatch.setattr(targets, "current_capability", lambda: (9, 0))
    assert find_target("current").package == FULL


def test_the_current_card_must_be_there(monkeypatch):
    monkeypatch.setattr(targets, "current_capability", lambda: None)
    with pytest.raises(RuntimeError, match="target 'current' needs an NVIDIA GPU: name the card"):
        find_target("current")


@pytest.mark.parametrize(
    ("package", "line"), [(RTX, r"pip install 'humo-rt\[tensorrt\]'"), (FULL, "pip install tensorrt")]
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch, package, line):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(RuntimeError, match=f"{package} is not installed.*: {line}"):
        load_tensorrt(package)


def test_an_empty_placeholder_counts_as_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    with pytest.raises(RuntimeError, match="tensorrt is not installed"):
        load_tensorrt(FULL)


def test_the_full_package_builds_only_for_the_card_in_the_machine(monkeypatch, full_tensorrt):
    tensorrt = load_tensorrt(FULL)
    assert not tensorrt.builds_without_gpu
    monkeypatch.setattr(targets, "current_capability", lambda: (9, 0))
    tensorrt.aim(SimpleNamespace(), TARGETS["h100"])
    with pytest.raises(RuntimeError, match="builds only for the card in the machine, which is not b200"):
        tensorrt.aim(SimpleNamespace(), TARGETS["b200"])


REFIT = "build-engine dit.onnx --target current --engine-weights stripped -o dit.engine && humo-rt verify-engine"


def test_the_doctor_says_that_engines_are_built_here_and_checked_on_a_card(monkeypatch):
    monkeypatch.setattr(targets, "current_capability", lambda: None)
    said = engine_support()
    assert "built here for RTX cards, but not run" in said
    assert "Check an engine there with: humo-rt verify-engine dit.engine." in said
    assert "to be refitted are not even built here" in said
    assert REFIT in said


@pytest.mark.parametrize(
    ("capability", "package", "line"),
    [((12, 0), "tensorrt_rtx", r"pip install 'humo-rt[tensorrt]'"), ((9, 0), "tensorrt", "pip install tensorrt")],
)
def test_the_doctor_says_what_a_card_lacks(monkeypatch, capability, package, line):
    monkeypatch.setattr(targets, "current_capability", lambda: capability)
    monkeypatch.setitem(sys.modules, package, None)
    said = engine_support()
    assert said.startswith("none can run here: ")
    assert said.endswith(line)


def test_the_doctor_says_how_to_try_the_card_that_is_here(monkeypatch, full_tensorrt):
    for capability, package in (((8, 9), RTX), ((9, 0), FULL)):
        monkeypatch.setattr(targets, "current_capability", lambda found=capability: found)
        said = engine_support()
        assert said.startswith(f"{package} is here, not tried; check an engine with: humo-rt verify-engine dit.engine")
        assert REFIT in said


def test_the_doctor_says_what_is_needed_where_nothing_is(monkeypatch):
    monkeypatch.setattr(targets, "current_capability", lambda: None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    assert engine_support() == "none can be built or run here: pip install 'humo-rt[tensorrt]'"
