"""No step of the denoise loop waits for the GPU: PyTorch raises an error at the first thing that would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.runtime.fusing import fuse
from tests.sampling.test_no_sync import CASES, run_watched
from tests.tiny import tiny_config

pytestmark = pytest.mark.gpu


@contextmanager
def no_synchronisation(index: int, branches: int) -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("published", [HUMO_1_7B, HUMO_17B], ids=lambda config: config.name)
@pytest.mark.parametrize(("mode", "faces"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("sampler", ["unipc", "euler"])
def test_no_step_waits_for_the_gpu(published, mode: str, faces: dict, sampler: str) -> None:
    config = tiny_config(published)
    latents = run_watched(config, mode, "cuda", sampler, no_synchronisation, **faces)
    assert torch.isfinite(latents).all()


@pytest.mark.parametrize("published", [HUMO_1_7B, HUMO_17B], ids=lambda config: config.name)
@pytest.mark.parametrize(("mode", "faces"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("sampler", ["unipc", "euler"])
def test_no_step_on_fused_kernels_waits_for_the_gpu(published, mode: str, faces: dict, sampler: str) -> None:
    latents = run_watched(tiny_config(published), mode, "cuda", sampler, no_synchronisation, adapt=fuse, **faces)
    assert torch.isfinite(latents).all()


def test_the_mode_sees_what_it_must() -> None:
    with pytest.raises(RuntimeError, match="synchroniz"), no_synchronisation(0, 1):
        torch.ones(2, device="cuda").sum().item()
    with pytest.raises(RuntimeError, match="synchroniz"), no_synchronisation(0, 1):
        torch.tensor([1.0, 2.0]).to("cuda")
