"""The engine file: complete or refused, with the command that builds it again."""

from __future__ import annotations

import dataclasses
import errno

import pytest

from humo_rt.tensorrt import engine_file
from humo_rt.tensorrt.engine_file import (
    WeightBinding,
    file_name,
    mapped_plan,
    read_header,
    replacing,
    require_usable,
    write_engine,
)
from humo_rt.tensorrt.fingerprint import Fingerprint
from humo_rt.tensorrt.profiles import profiles_for
from tests.tensorrt.fake_tensorrt import header as make_header
from tests.tensorrt.small_graphs import tiny_spec

REBUILD = "humo-rt build-engine dit.onnx --target rtx4090 --output dit.engine"
PLAN = bytes(range(256)) * 20


@pytest.fixture
def header():
    spec = tiny_spec(face_mask=True)
    profiles = profiles_for(spec.config, sizes=[(48, 32), (32, 48)], num_frames=9, branches=4)
    weights = (WeightBinding(name="blocks.0.weight", dtype="float16", shape=(3, 4)),)
    return make_header(spec, profiles, weights="separate", weight_bindings=weights)


@pytest.fixture
def engine(tmp_path, header):
    path = tmp_path / "dit.engine"
    write_engine(path, header, PLAN)
    return path


def test_header_and_plan_come_back(engine, header):
    assert read_header(engine) == dataclasses.replace(header, plan_bytes=len(PLAN))
    with mapped_plan(engine) as plan:
        assert bytes(plan) == PLAN


@pytest.mark.parametrize("missing", [1, 100, len(PLAN), len(PLAN) + 100])
def test_a_truncated_file_is_refused_with_the_command_to_run(engine, missing):
    engine.write_bytes(engine.read_bytes()[:-missing])
    with pytest.raises(ValueError, match=r"has \d+ bytes instead of \d+: .*rebuild it with " + REBUILD):
        read_header(engine)


@pytest.mark.parametrize("kept", [8, 12, 16, 300])
def test_a_file_that_ends_within_its_header_is_refused(engine, kept):
    engine.write_bytes(engine.read_bytes()[:kept])
    with pytest.raises(ValueError, match="ends within its header"):
        read_header(engine)


@pytest.mark.parametrize("content", [b"", b"ftrt" * 100])
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "foreign.engine"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is no engine of humo-rt: build one with humo-rt build-engine"):
        read_header(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_header(tmp_path / "none.engine")


def test_an_engine_of_another_project_version_is_refused(engine, header, monkeypatch):
    monkeypatch.setattr(engine_file, "_FORMAT", 9)
    write_engine(engine, header, PLAN)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="built by another version of humo-rt: rebuild it with " + REBUILD):
        read_header(engine)


def test_an_engine_for_another_version_or_card_is_refused(header):
    require_usable(header, "dit.engine", package_version="1.0", capability=(8, 9))
    with pytest.raises(
        ValueError, match="built with tensorrt-rtx 1.0, but 1.1 is installed: rebuild it with " + REBUILD
    ):
        require_usable(header, "dit.engine", package_version="1.1", capability=(8, 9))
    other = REBUILD.replace("rtx4090", "current")
    with pytest.raises(ValueError, match=f"built for rtx4090 .*, but this GPU has 12.0: rebuild it with {other}"):
        require_usable(header, "dit.engine", package_version="1.0", capability=(12, 0))


def test_nothing_half_written_remains_when_the_disk_is_full(tmp_path, engine):
    before = engine.read_bytes()

    def fill_the_disk():
        with replacing(engine) as file:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RuntimeError, match="the disk is full"):
        fill_the_disk()
    assert list(tmp_path.iterdir()) == [engine]
    assert engine.read_bytes() == before


def test_nothing_half_written_remains_after_ctrl_c(tmp_path):
    def interrupt():
        with replacing(tmp_path / "dit.engine") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert not list(tmp_path.iterdir())


def test_a_device_without_space_is_reported(tmp_path, header, monkeypatch):
    monkeypatch.setattr("pathlib.Path.open", lambda path, mode: open("/dev/full", "wb", buffering=0))  # noqa: PTH123, SIM115
    with pytest.raises(RuntimeError, match="cannot write .*the disk is full"):
        write_engine(tmp_path / "dit.engine", header, PLAN)
    assert not list(tmp_path.iterdir())


def test_the_name_tells_engines_apart(header):
    name = file_name(header)
    assert name.startswith("custom_float16_48x32_32x48_7f4b_rtx4090_tensorrt-rtx-1.0_")
    changed = [
        dataclasses.replace(header, target="rtx5090"),
        dataclasses.replace(header, package_version="1.1"),
        dataclasses.replace(header, target="current"),
        dataclasses.replace(header, target="current", capability=(12, 0)),
        dataclasses.replace(header, onnx_sha256="1" * 64),
        dataclasses.replace(header, weight_streaming=True),
        dataclasses.replace(header, opset=24),
        dataclasses.replace(header, origin=dataclasses.replace(header.origin, fingerprint=Fingerprint({"x": (1.0,)}))),
        dataclasses.replace(header, weights="embedded"),
        dataclasses.replace(header, profiles=header.profiles[:1]),
        dataclasses.replace(header, spec=dataclasses.replace(header.spec, face_mask=False)),
    ]
    assert len({name, *map(file_name, changed)}) == len(changed) + 1
    assert "_sm120_" in file_name(changed[3])


def test_the_name_does_not_depend_on_where_the_files_are(header):
    elsewhere = dataclasses.replace(header, onnx="/b/dit.onnx", command=("humo-rt", "build-engine", "/b/dit.onnx"))
    assert file_name(elsewhere) == file_name(header)


@pytest.mark.parametrize(
    ("stored", "damaged"),
    [
        (b'"capability"', b'"capabil\xffty"'),
        (b'"weight_bindings"', b'"weight_findings"'),
        (b'"capability": [8, 9]', b'"capability": [9, 0]'),
        (b'{"capability"', b'["capability"'),
    ],
)
def test_a_damaged_header_is_refused_by_name(engine, stored, damaged):
    content = engine.read_bytes()
    engine.write_bytes(content.replace(stored, damaged, 1))
    assert engine.read_bytes() != content
    with pytest.raises(ValueError, match=r"the header of .*dit.engine is damaged: copy it again, or build it again"):
        read_header(engine)
