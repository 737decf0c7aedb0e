"""Build humo_rt: the package map and the optional CUDA extension ``humo_rt._C``.

Everything else about the distribution is in pyproject.toml. The extension is built by CMake when nvcc is found;
``HUMO_RT_BUILD_CUDA=0`` leaves it out, ``=1`` makes its absence an error. Knows nothing of torch.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
OLDEST_CUDA = (12, 8)  # the first that knows every architecture of CMakeLists.txt


def find_nvcc() -> str | None:
    """The CUDA compiler on PATH, else in the toolkit's usual folder."""
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def missing_for_cuda() -> str | None:
    """Why the extension cannot be built here, or None when it can."""
    nvcc = find_nvcc()
    if nvcc is None:
        return "nvcc was not found on PATH"
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release (\d+)\.(\d+)", text)
    if release is None or tuple(map(int, release.groups())) < OLDEST_CUDA:
        return f"{nvcc} is not CUDA {'.'.join(map(str, OLDEST_CUDA))} or newer"
    if not shutil.which("cmake"):
        return "cmake was not found on PATH (pip install cmake)"
    return None


def cuda_extensions() -> list[Extension]:
    """The extension to build: one, or none with one line that says why."""
    wish = os.environ.get("HUMO_RT_BUILD_CUDA", "auto")
    if wish not in ("auto", "0", "1"):
        raise SystemExit(f"HUMO_RT_BUILD_CUDA={wish!r} must be 0 or 1: unset it to build when nvcc is there")
    missing = "HUMO_RT_BUILD_CUDA=0" if wish == "0" else missing_for_cuda()
    if missing is None:
        return [Extension("humo_rt._C", sources=[])]
    if wish == "1":
        raise SystemExit(f"HUMO_RT_BUILD_CUDA=1 but {missing}")
    sys.stderr.write(f"humo_rt._C skipped: {missing}; the CUDA kernels fall back to Triton or PyTorch\n")
    return []


class CMakeBuild(build_ext):
    """Hand the extension to CMake, which knows sources, architectures and flags."""

    def build_extension(self, ext: Extension) -> None:
        """Configure and build CMakeLists.txt; the module lands where setuptools expects ``ext``."""
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build_dir = Path(self.build_temp).resolve() / "cmake"
        configure = [
            "cmake", "-S", str(ROOT), "-B", str(build_dir),
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_CUDA_COMPILER={find_nvcc()}",
        ]  # fmt: skip
        if shutil.which("ninja"):
            configure.append("-GNinja")
        for command in (configure, ["cmake", "--build", str(build_dir), "--parallel", str(os.cpu_count() or 1)]):
            if subprocess.run(command, check=False).returncode:
                raise SystemExit("humo_rt._C does not compile (see above); HUMO_RT_BUILD_CUDA=0 installs without it")


kernel_packages = ["humo_rt.kernels", *(f"humo_rt.kernels.{name}" for name in find_packages("kernels"))]

setup(
    packages=[*find_packages(include=["humo_rt", "humo_rt.*"]), *kernel_packages],
    package_dir={"humo_rt": "humo_rt", "humo_rt.kernels": "kernels"},
    ext_modules=cuda_extensions(),
    cmdclass={"build_ext": CMakeBuild},
)
