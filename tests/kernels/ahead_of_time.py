"""Compile an op's Triton kernels for GPUs that are not here: ``python -m tests.kernels.ahead_of_time <op> ...``.

The op's cases are run as far as each launch, which is compiled instead: to machine code, by the assembler that comes
with Triton. The interpreter shows what a kernel computes, this shows that every family of cards can be given it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from unittest import mock

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from humo_rt.kernels import registry
from humo_rt.kernels.testing import Case, cases

CAPABILITIES = {"Ampere": 80, "GeForce Ampere": 86, "Ada": 89, "Hopper": 90, "Blackwell": 100, "GeForce Blackwell": 120}
SHARED_KIB = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # one block's share, from NVIDIA's programming guide
WARP = 32


class Elsewhere:
    """Stands for the driver of a card of this compute capability; a device's number keeps its kernels apart."""

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.utils = self

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 1024 * SHARED_KIB[self.capability]}

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, WARP)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_cases(op: str, capability: int, chosen: Sequence[Case]) -> int:
    """Compile every kernel that ``chosen`` cases of ``op`` launch; returns how many different ones.

    ``AssertionError`` for one that needs more shared memory than the card has, which a launch there would refuse.
    """
    run, launch, kernels = registry.implementation(op, "triton"), JITFunction.run, set()

    def compiled(self: JITFunction, *args: object, grid: object, warmup: bool, **kwargs: object) -> None:
        kernel = launch(self, *args, grid=grid, warmup=True, **kwargs)
        assert kernel.metadata.shared <= 1024 * SHARED_KIB[capability], (op, kernel.metadata.shared)
        kernels.add(kernel.hash)

    elsewhere = mock.patch.object(driver, "_active", Elsewhere(capability))
    with elsewhere, mock.patch.object(JITFunction, "run", compiled):
        for case in chosen:
            run(*case.make(torch.device("cpu")))
    return len(kernels)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        counts = {family: compile_cases(name, capability, cases(name)) for family, capability in CAPABILITIES.items()}
        sys.stdout.write(f"{name}: {counts}\n")
