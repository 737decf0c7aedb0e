"""What is installed: the contents of the wheel, and what starting costs."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("transformers", "diffusers", "av", "soundfile", "soxr", "triton", "onnx")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> set[str]:
    """Names of the files in a wheel built, without CUDA, from a copy of the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("humo_rt", "kernels", "training", "tests/kernels"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, source]
    done = subprocess.run(
        command, env=os.environ | {"HUMO_RT_BUILD_CUDA": "0"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    assert path.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


class TestWheel:
    def test_only_the_runtime_is_installed(self, wheel):
        tops = {name.split("/")[0] for name in wheel}
        assert {top for top in tops if not top.endswith(".dist-info")} == {"humo_rt"}

    def test_every_module_of_the_runtime_is_there(self, wheel):
        modules = {str(path.relative_to(ROOT)) for path in (ROOT / "humo_rt").rglob("*.py")}
        kernels = {f"humo_rt/{path.relative_to(ROOT)}" for path in (ROOT / "kernels").rglob("*.py")}
        assert modules | kernels == {name for name in wheel if name.endswith(".py")}

    def test_assets_and_markers_are_there(self, wheel):
        assets = {str(path.relative_to(ROOT)) for path in (ROOT / "humo_rt/assets").rglob("*") if path.is_file()}
        assert assets <= wheel
        assert "humo_rt/py.typed" in wheel
        assert any(name.endswith("licenses/LICENSE") for name in wheel)


class TestStart:
    """Processor time, not wall time, and three tries: other work on the machine must not fail these."""

    def test_importing_is_cheap_beyond_torch(self):
        code = (
            "import sys, time, torch\n"
            "start = time.process_time()\n"
            "import humo_rt\n"
            "seconds = time.process_time() - start\n"
            f"loaded = [name for name in {HEAVY} if name in sys.modules]\n"
            "assert not loaded, loaded\n"
            "sys.stdout.write(str(seconds))"
        )
        assert any(float(run(sys.executable, "-c", code)) < 0.3 for _ in range(3))

    def test_help_answers_at_once(self):
        command = Path(sys.executable).with_name("humo-rt")
        assert any(processor_seconds(command, "--help") < 0.5 for _ in range(3))


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def processor_seconds(*command: str | Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(*command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
