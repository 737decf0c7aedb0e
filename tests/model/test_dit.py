"""The DiT against numbers of the official release, its names against the published manifests."""

from __future__ import annotations

import dataclasses
import gzip
import json

import pytest
import torch

from humo_rt.config import PRESETS, DiTConfig
from humo_rt.model.dit import HumoDiT
from tests.golden_data import GOLDEN, case_ids, load_group, recipe_input
from tests.golden_data import case as golden_case
from tests.model.golden_dit import golden_dit

GROUPS = ("dit_t2v", "dit_i2v")
CASES = [(group, case_id) for group in GROUPS for case_id in case_ids(group)]


def stacked(case: dict, name: str) -> torch.Tensor:
    return torch.stack([recipe_input(sample[name]) for sample in case["samples"]])


def stacked_condition(case: dict) -> torch.Tensor | None:
    """Mask channels (1 on reference frames), then the condition latents; None for models without them."""
    if "y_latent" not in case["samples"][0]:
        return None
    latents = stacked(case, "y_latent")
    mask = torch.zeros_like(latents[:, :4])
    for row, sample in zip(mask, case["samples"], strict=True):
        row[:, case["T"] - sample["y"]["nref"] :] = 1
    return torch.cat([mask, latents], dim=1)


def run(model: HumoDiT, case: dict, **kwargs) -> torch.Tensor:
    frames = case["T"]
    audio = stacked(case, "audio")[:, :frames] if case["insert_audio"] else None
    condition = stacked_condition(case)
    texts = [recipe_input(sample["context"]) for sample in case["samples"]]
    timestep = torch.tensor(case["t"])
    with torch.no_grad():
        return model(stacked(case, "x"), timestep, text_embeds=texts, audio=audio, condition=condition, **kwargs)


@pytest.mark.parametrize(("group", "case_id"), CASES)
def test_forward_agrees_with_the_release(group: str, case_id: str) -> None:
    case, tensors = golden_case(group, case_id), load_group(group)[1]
    out = run(golden_dit(group), case)
    for index in range(case["batch"]):
        torch.testing.assert_close(out[index], tensors[f"{case_id}.{index}.out"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("group", GROUPS)
def test_cached_context_changes_nothing(group: str) -> None:
    case = golden_case(group, "a")
    model = golden_dit(group)
    texts = [recipe_input(sample["context"]) for sample in case["samples"]]
    with torch.no_grad():
        context = model.project_context(texts, stacked(case, "audio"))
        cached = model(stacked(case, "x"), torch.tensor(case["t"]), context=context, condition=stacked_condition(case))
    assert torch.equal(cached, run(model, case))


@pytest.mark.parametrize(("preset", "manifest"), [("humo-1.7b", "humo_1_7b"), ("humo-17b", "humo_17b")])
def test_full_size_names_and_shapes_are_the_published_ones(preset: str, manifest: str) -> None:
    with torch.device("meta"):
        model = HumoDiT(PRESETS[preset].dit)
    with gzip.open(GOLDEN / "manifests" / f"{manifest}.json.gz") as file:
        expected = {name: tuple(shape) for name, (shape, _) in json.load(file).items()}
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == expected


def tiny_config(**changes) -> DiTConfig:
    config = DiTConfig(
        dim=32, num_layers=4, num_heads=2, ffn_dim=48, image_injection="frames", text_dim=12, text_len=6, freq_dim=16,
        audio_dim=8, audio_hidden=16, audio_tokens=4, audio_token_dim=16, mask_predictor=True,
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


def tiny_inputs(batch: int = 2, frames: int = 3) -> dict:
    return {
        "x_BCTHW": torch.randn(batch, 16, frames, 4, 6),
        "timestep_B": torch.full((batch,), 500.0),
        "text_embeds": torch.randn(batch, 5, 12),
        "audio": torch.randn(batch, frames, 8, 5, 8),
    }


def test_mask_predictor_reads_every_token_and_leaves_the_velocity_alone() -> None:
    torch.manual_seed(0)
    model = HumoDiT(tiny_config())
    inputs = tiny_inputs()
    velocity, logits = model(**inputs, return_face_mask=True)
    assert logits.shape == (2, 3, 4, 6)
    assert torch.equal(velocity, model(**inputs))
    logits.sum().backward()
    assert model.mask_predictor.layers[0].weight.grad.abs().sum() > 0


def test_face_mask_confines_the_audio() -> None:
    torch.manual_seed(0)
    model, inputs = HumoDiT(tiny_config()), tiny_inputs()
    everywhere = torch.ones(2, 3, 4, 6)
    with torch.no_grad():
        assert torch.equal(model(**inputs, face_mask=everywhere), model(**inputs))
        nowhere = model(**inputs, face_mask=torch.zeros_like(everywhere))
        torch.testing.assert_close(nowhere, model(**{**inputs, "audio": None}))
        half = everywhere.clone()
        half[..., 3:] = 0
        assert not torch.equal(model(**inputs, face_mask=half), model(**inputs))


def test_bf16_weights_stay_close_to_float32() -> None:
    torch.manual_seed(0)
    model, inputs = HumoDiT(tiny_config()), tiny_inputs()
    with torch.no_grad():
        exact = model(**inputs)
        rounded = model.to(torch.bfloat16)(**inputs)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() / exact.norm() < 3e-2


def test_errors_name_the_rule() -> None:
    model = HumoDiT(tiny_config(mask_predictor=False))
    inputs = tiny_inputs()
    with pytest.raises(ValueError, match="no mask predictor"):
        model(**inputs, return_face_mask=True)
    with pytest.raises(ValueError, match="exceeds the model's 6"):
        model(**{**inputs, "text_embeds": torch.randn(2, 7, 12)})
    with pytest.raises(ValueError, match="latent frames"):
        model(**{**inputs, "audio": inputs["audio"][:, :2]})
    with pytest.raises(ValueError, match="input channels"):
        model(**inputs, condition=torch.randn(2, 20, 3, 4, 6))
    with pytest.raises(ValueError, match="not a multiple of the patch"):
        model(**{**inputs, "x_BCTHW": torch.randn(2, 16, 3, 5, 6)})
