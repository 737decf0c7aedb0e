"""Samples that differ in their conditions alone: given their input once, they come out as if each had its own."""

from __future__ import annotations

import pytest
import torch

from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.model.dit import HumoDiT
from humo_rt.runtime.fusing import fuse
from tests.tiny import tiny_components, tiny_config

ROWS = [0, 1, 1, 0, 1]


def make_dit(published, *, fused: bool) -> HumoDiT:
    dit = tiny_components(tiny_config(published)).dit
    return fuse(dit) if fused else dit


def inputs_of(dit: HumoDiT, lengths: list[int]) -> dict:
    config, generator = dit.config, torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    audio = random(len(lengths), 3, config.audio_window, config.audio_bands, config.audio_dim)
    inputs = {
        "x_BCTHW": random(2, 16, 3, 4, 6),
        "timestep_B": torch.tensor([900, 20]),
        "context": dit.project_context([random(length, config.text_dim) for length in lengths], audio),
        "face_mask": torch.rand(len(lengths), 3, 4, 6, generator=generator),
    }
    return inputs | ({"condition": random(2, 20, 3, 4, 6)} if config.in_channels > 16 else {})


@pytest.mark.parametrize("published", [HUMO_1_7B, HUMO_17B], ids=lambda config: config.name)
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@torch.no_grad()
def test_a_shared_input_changes_nothing(published, fused: bool) -> None:
    dit = make_dit(published, fused=fused)
    inputs = inputs_of(dit, [5, 9, 32, 1, 9])
    shared, shared_mask = dit(**inputs, rows=torch.tensor(ROWS), return_face_mask=True)
    for name in ("x_BCTHW", "timestep_B", "condition"):
        if name in inputs:
            inputs[name] = inputs[name][ROWS]
    alone, alone_mask = dit(**inputs, return_face_mask=True)
    torch.testing.assert_close(shared, alone)
    torch.testing.assert_close(shared_mask, alone_mask)
    assert (shared[1] - shared[2]).abs().max() > 1e-3


@pytest.mark.parametrize("lengths", [[0, 3], [31, 2], [32, 7], [32, 32]])
@torch.no_grad()
def test_padding_as_one_key_is_the_attention_to_all_of_it(lengths: list[int]) -> None:
    plain, fused = make_dit(HUMO_1_7B, fused=False), make_dit(HUMO_1_7B, fused=True)
    rows = {"rows": torch.tensor([0, 1])}
    torch.testing.assert_close(fused(**inputs_of(fused, lengths), **rows), plain(**inputs_of(plain, lengths), **rows))


@torch.no_grad()
def test_keys_are_projected_as_far_as_the_longest_text_goes() -> None:
    dit = fuse(tiny_components(tiny_config(HUMO_1_7B, text_len=512)).dit)
    text = dit.project_context([torch.randn(length, 16) for length in (5, 70, 0)], None).text[0]
    assert text.k.shape[2] == text.v.shape[2] == text.bias_BS.shape[1] == 128
    assert text.bias_BS.isfinite().sum(1).tolist() == [6, 71, 1]
    counts = text.bias_BS.double().exp().sum(1)
    torch.testing.assert_close(counts, torch.full((3,), 512.0, dtype=torch.float64), rtol=1e-6, atol=0)
