"""Which card an engine is for, and which TensorRT builds it: ``tensorrt-rtx`` for RTX cards, ``tensorrt`` for others.

TensorRT for RTX compiles for a card that is not there, so any machine builds its engines. The full TensorRT times
kernels, so it builds only on the card the engine is for. Knows nothing of networks or files.
"""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

CURRENT = "current"
RTX, FULL = "tensorrt-rtx", "tensorrt"

_MODULES = {RTX: "tensorrt_rtx", FULL: "tensorrt"}
_INSTALL = {RTX: "pip install 'humo-rt[tensorrt]'", FULL: "pip install tensorrt"}

_VERIFY = "humo-rt verify-engine dit.engine"
# Loading a stripped engine refits it, so verifying one says whether refitting works.
_VERIFY_REFIT = f"humo-rt build-engine dit.onnx --target {CURRENT} --engine-weights stripped -o dit.engine && {_VERIFY}"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A card. ``capability``: its CUDA compute capability."""

    name: str
    capability: tuple[int, int]
    package: str

    def __str__(self) -> str:
        return f"{self.name} (compute capability {dotted(self.capability)})"


TARGETS = {
    target.name: target
    for target in (
        Target(name="rtx4090", capability=(8, 9), package=RTX),
        Target(name="rtx5090", capability=(12, 0), package=RTX),
        Target(name="a100", capability=(8, 0), package=FULL),
        Target(name="h100", capability=(9, 0), package=FULL),
        Target(name="h200", capability=(9, 0), package=FULL),
        Target(name="b200", capability=(10, 0), package=FULL),
    )
}

# Compute capabilities of RTX cards; every other one is a data-centre card's.
_RTX_CAPABILITIES = ((7, 5), (8, 6), (8, 9), (12, 0), (12, 1))


def find_target(name: str) -> Target:
    """The card called ``name``, or the one in this machine for ``"current"``.

    ``ValueError`` for an unknown name, ``RuntimeError`` for ``"current"`` without a GPU.
    """
    if name == CURRENT:
        return _current_target()
    if name not in TARGETS:
        raise ValueError(f"unknown target {name!r}: choose one of {', '.join((*TARGETS, CURRENT))}")
    return TARGETS[name]


def current_capability() -> tuple[int, int] | None:
    """Compute capability of the current GPU, None without one."""
    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


@dataclass(frozen=True, kw_only=True)
class TensorRT:
    """One of the two packages, imported. ``module`` is its Python module; both have nearly the same interface."""

    package: str
    module: ModuleType
    version: str

    @property
    def builds_without_gpu(self) -> bool:
        return hasattr(self.module, "ComputeCapability")

    def aim(self, config: Any, target: Target) -> None:
        """Make the builder ``config`` compile for ``target``.

        ``ValueError`` if the package cannot build for it at all, ``RuntimeError`` if only on that card.
        """
        if self.builds_without_gpu:
            known = self.module.ComputeCapability.__members__
            name = "SM{}{}".format(*target.capability)
            if name not in known:
                cards = ", ".join(card for card, other in TARGETS.items() if other.package == self.package)
                raise ValueError(f"{self.package} {self.version} builds no engines for {target}: choose {cards}")
            config.num_compute_capabilities = 1
            config.set_compute_capability(known[name], 0)
        elif current_capability() != target.capability:
            raise RuntimeError(
                f"{self.package} builds only for the card in the machine, which is not {target}: run this on that card"
            )


def load_tensorrt(package: str) -> TensorRT:
    """Import ``package``; ``RuntimeError`` with the line that installs it when it is absent or broken."""
    try:
        module = importlib.import_module(_MODULES[package])
        # The index's placeholder for the full package can be imported and holds nothing.
        return TensorRT(package=package, module=module, version=module.Builder and module.__version__)
    except (ImportError, AttributeError) as error:
        raise RuntimeError(f"{package} is not installed ({error}): {_INSTALL[package]}") from error


def engine_support() -> str:
    """What this machine can do with engines, in words: build, run, neither, and what would change that."""
    capability = current_capability()
    if capability is not None:
        package = _package_for(capability)
        try:
            load_tensorrt(package)
        except RuntimeError as error:
            return f"none can run here: {error}"
        return f"{package} is here, not tried; check an engine with: {_VERIFY}; and refitting with: {_VERIFY_REFIT}"
    try:
        load_tensorrt(RTX)
    except RuntimeError:
        return f"none can be built or run here: {_INSTALL[RTX]}"
    return (
        "built here for RTX cards, but not run: that needs an RTX card, or a data-centre card with the full tensorrt "
        f"package. Check an engine there with: {_VERIFY}. Engines to be refitted are not even built here; there: "
        f"{_VERIFY_REFIT}"
    )


def driver_present() -> bool:
    """Whether an NVIDIA driver can be loaded, which says that something with a GPU memory may be built here."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _current_target() -> Target:
    capability = current_capability()
    if capability is None:
        raise RuntimeError(f"target 'current' needs an NVIDIA GPU: name the card with one of {', '.join(TARGETS)}")
    return Target(name=CURRENT, capability=capability, package=_package_for(capability))


def _package_for(capability: tuple[int, int]) -> str:
    return RTX if capability in _RTX_CAPABILITIES else FULL
