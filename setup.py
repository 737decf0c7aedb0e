"""Build humo_rt: the package map and the optional CUDA extension ``humo_rt._C``.

Everything else about the distribution is in pyproject.toml. The extension is built by CMake when nvcc is found;
``HUMO_RT_BUILD_CUDA=0`` leaves it out, ``=1`` makes its absence an error. Knows nothing of torch.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def missing_for_cuda() -> str | None:
    """Why the extension cannot be built here, or None when it can."""
    cuda_home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    if not (shutil.which("nvcc") or (cuda_home / "bin" / "nvcc").is_file()):
        return "nvcc was not found on PATH or in CUDA_HOME"
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
        ]  # fmt: skip
        if shutil.which("ninja"):
            configure.append("-GNinja")
        if not shutil.which("nvcc") and "CUDACXX" not in os.environ:
            cuda_home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
            configure.append(f"-DCMAKE_CUDA_COMPILER={cuda_home}/bin/nvcc")
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build_dir), "--parallel", str(os.cpu_count() or 1)], check=True)


kernel_packages = ["humo_rt.kernels", *(f"humo_rt.kernels.{name}" for name in find_packages("kernels"))]

setup(
    packages=[*find_packages(include=["humo_rt", "humo_rt.*"]), *kernel_packages],
    package_dir={"humo_rt": "humo_rt", "humo_rt.kernels": "kernels"},
    ext_modules=cuda_extensions(),
    cmdclass={"build_ext": CMakeBuild},
)
