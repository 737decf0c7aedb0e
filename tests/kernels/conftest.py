"""Backends in turn, and a GPU's memory: what a test needs is there before it, and free again after it."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from humo_rt.kernels import registry

USUAL_GIB = 6


@pytest.fixture
def backend(request) -> Iterator[str]:
    """The backend of this name, while the test runs."""
    with registry.use_backend(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def gpu_memory(request) -> Iterator[None]:
    """Fails at once where a test on a GPU lacks the memory that its mark ``gpu_memory`` states in GiB."""
    if request.node.get_closest_marker("gpu") is None:
        yield
        return
    import torch

    mark = request.node.get_closest_marker("gpu_memory")
    needed, free = mark.args[0] if mark else USUAL_GIB, torch.cuda.mem_get_info()[0] / 2**30
    if free < needed:
        pytest.fail(f"needs {needed} GiB of the GPU's memory, {free:.1f} are free: run it alone or on a larger card")
    yield
    gc.collect()
    torch.cuda.empty_cache()
