"""Speakers and face tokens on the kernels of a GPU, fused blocks and recordings included."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

from humo_rt.config import NANO
from humo_rt.model.dit import HumoDiT
from humo_rt.runtime.fusing import fuse
from humo_rt.runtime.replay import ReplayedDiT

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
CONFIG = dataclasses.replace(NANO.dit, num_layers=2)
BRANCHES, FRAMES, SIZE = 3, 5, (16, 24)
SPEAKERS = pytest.mark.parametrize("speakers", [None, 2])
DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


def make_dit(dtype: torch.dtype) -> HumoDiT:
    torch.manual_seed(0)
    dit = HumoDiT(CONFIG).eval().requires_grad_(False)
    for name, parameter in dit.named_parameters():
        if "norm" in name:
            parameter.add_(0.2 * torch.randn_like(parameter))
    return dit.to(DEVICE, dtype)


def make_mask(speakers: int | None) -> torch.Tensor:
    """A face for each speaker, with a soft edge, and a reference frame of the first."""
    mask = torch.zeros(speakers or 1, BRANCHES, FRAMES, *SIZE)
    for speaker in range(len(mask)):
        mask[speaker, ..., 3:9, 2 + 12 * speaker : 9 + 12 * speaker] = 1
    mask[0, :, -1] = 1
    mask[1:, :, -1] = 0
    return (mask if speakers else mask[0]).to(DEVICE)


def make_inputs(dit: HumoDiT, speakers: int | None) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(DEVICE)

    rows = torch.arange(BRANCHES, device=DEVICE)
    audio_rows = rows if speakers is None else torch.arange(speakers * BRANCHES, device=DEVICE).view(speakers, -1)
    features = (CONFIG.audio_window, CONFIG.audio_bands, CONFIG.audio_dim)
    context = dit.project_context(
        noise(BRANCHES, 7, CONFIG.text_dim), noise(audio_rows.numel(), FRAMES, *features)
    ).select(rows, audio_rows)
    return {
        "x_BCTHW": noise(BRANCHES, 16, FRAMES, *SIZE),
        "timestep_B": torch.tensor([999, 500, 1], device=DEVICE),
        "context": context,
    }


@torch.no_grad()
@DTYPES
@SPEAKERS
@pytest.mark.parametrize("fused", [False, True], ids=["eager", "fused"])
def test_tokens_and_mask_agree_with_float32(speakers, dtype, fused):
    dit, mask = make_dit(dtype), make_mask(speakers)
    faces = dit.place_faces(mask)
    assert isinstance(faces, tuple)
    wide = copy.deepcopy(dit).float()
    truth = wide(**make_inputs(wide, speakers), face_mask=mask)
    eager = dit(**make_inputs(dit, speakers), face_mask=mask)
    bound = 2 * (eager - truth).abs().max() + 2 * (eager + 0.3 - 0.3 - eager).abs().max()
    if fused:
        fuse(dit)
    inputs = make_inputs(dit, speakers)
    for given in (faces, mask):
        assert (dit(**inputs, face_mask=given) - truth).abs().max() <= bound
    assert (dit(**inputs) - truth).abs().max() > bound


@torch.no_grad()
@SPEAKERS
def test_a_recording_holds_face_tokens(speakers):
    dit = fuse(make_dit(torch.bfloat16))
    inputs = make_inputs(dit, speakers)
    x, timestep = inputs.pop("x_BCTHW"), inputs.pop("timestep_B")
    replayed = ReplayedDiT(dit, always=True)
    faces = replayed.place_faces(make_mask(speakers))
    for latents in (x, x.flip(-1)):
        found = replayed(latents, timestep, **inputs, face_mask=faces)
        assert torch.equal(found, dit(latents, timestep, **inputs, face_mask=faces))
    assert len(replayed._recordings) == 1


@torch.no_grad()
@SPEAKERS
def test_compiled_blocks_take_face_tokens(speakers):
    dit = make_dit(torch.bfloat16)
    inputs, faces = make_inputs(dit, speakers), dit.place_faces(make_mask(speakers))
    expected = dit(**inputs, face_mask=faces)
    for block in dit.blocks:
        block.compile(fullgraph=True)
    found = dit(**inputs, face_mask=faces)
    assert (found - expected).norm() / expected.norm() < 2e-2  # bf16, in another order of roundings
