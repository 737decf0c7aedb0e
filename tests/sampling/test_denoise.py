"""Complete guided loops: TIA and TA against the release, TI and T against the same arithmetic written out."""

from __future__ import annotations

import pytest
import torch

from humo_rt.conditions.audio import window_audio
from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.sampling.branches import Conditions, GuidedModel
from humo_rt.sampling.denoise import denoise
from humo_rt.sampling.guidance import guidance_table
from humo_rt.sampling.schedule import make_scheduler, model_timesteps
from tests.golden_data import case, case_ids, load_group, recipe_input
from tests.model.golden_dit import golden_dit

CASES = case_ids("loops")


def conditions_of(entry: dict, mode: str) -> Conditions:
    frames = 1 + (entry["frame_num_used"] - 1) // 4
    return Conditions(
        text_embeds=[recipe_input(entry["context"])],
        negative_embeds=recipe_input(entry["context_null"]),
        audio=window_audio(recipe_input(entry["audio_emb"]), frames)[None] if "A" in mode else None,
        reference_latents=recipe_input(entry["latents_ref"])[None] if "I" in mode else None,
        grey_latents=recipe_input(entry["zero_vae"]) if entry["variant"] == "17b" else None,
    )


def table_of(entry: dict, mode: str):
    scales = {"guidance_scale": entry["scale_t"], "audio_guidance_scale": entry["scale_a"]}
    if entry["variant"] == "17b":
        return guidance_table(HUMO_17B, mode, guidance_switch_timestep=entry["step_change"], **scales)
    return guidance_table(HUMO_1_7B, mode, image_guidance_scale=entry["scale_i"], **scales)


def run(entry: dict, mode: str, **kwargs) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """The result, and what the scheduler was handed at each step: guided velocity and latents."""
    handed = []
    scheduler = make_scheduler(entry["steps"], entry["shift"])
    advance = scheduler.step

    def step(velocity: torch.Tensor, t: torch.Tensor, latents: torch.Tensor, **options):
        handed.append((velocity[0].clone(), latents[0].clone()))
        return advance(velocity, t, latents, **options)

    scheduler.step = step
    out = denoise(
        golden_dit(entry["dit"]), conditions_of(entry, mode), recipe_input(entry["noise"])[None],
        guidance=table_of(entry, mode), scheduler=scheduler, **kwargs,
    )  # fmt: skip
    return out[0], handed


@pytest.mark.parametrize("case_id", CASES)
def test_loops_agree_with_the_release(case_id: str) -> None:
    entry, tensors = case("loops", case_id), load_group("loops")[1]
    x0, handed = run(entry, entry["mode"])
    assert len(handed) == entry["steps"]
    for index, (velocity, latents) in enumerate(handed):
        torch.testing.assert_close(latents, tensors[f"{case_id}.latents"][index], atol=1e-4, rtol=0)
        torch.testing.assert_close(velocity, tensors[f"{case_id}.noise_pred"][index], atol=1e-4, rtol=0)
    torch.testing.assert_close(x0, tensors[f"{case_id}.x0"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [1, 2])
def test_branches_one_at_a_time_give_the_same_video(size: int) -> None:
    entry = case("loops", CASES[0])
    torch.testing.assert_close(
        run(entry, entry["mode"], branch_batch_size=size)[0], run(entry, entry["mode"])[0], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("in_place", [False, True])
def test_what_a_callback_changes_is_still_changed_a_step_later(in_place: bool) -> None:
    """UniPC corrects the outcome of a step from the latents before it, which no callback is given."""
    entry = case("loops", CASES[0])
    changed_step = entry["steps"] // 2

    def latents_of(shift: float) -> list[torch.Tensor]:
        every = []

        def on_step(index: int, timestep: int, latents: torch.Tensor) -> torch.Tensor:
            if index == changed_step:
                latents = latents.add_(shift) if in_place else latents + shift
            every.append(latents.clone())
            return latents

        run(entry, entry["mode"], on_step=on_step)
        return every

    plain, changed = latents_of(0.0), latents_of(2.0)
    assert torch.equal(plain[changed_step] + 2.0, changed[changed_step])
    moved = (changed[changed_step + 1] - plain[changed_step + 1]).mean().item()
    assert 1.0 < moved < 3.0


def test_a_callback_that_changes_nothing_changes_nothing() -> None:
    entry = case("loops", CASES[0])
    watched, _ = run(entry, entry["mode"], on_step=lambda index, timestep, latents: latents.clone())
    assert torch.equal(watched, run(entry, entry["mode"])[0])


def test_branches_that_differ_in_the_image_alone_share_their_keys_and_values() -> None:
    entry = case("loops", CASES[0])
    noise = recipe_input(entry["noise"])[None]
    guided = GuidedModel(golden_dit(entry["dit"]), conditions_of(entry, "TIA"), noise)
    early, late = guided._context(("TIA", "TI", "I")), guided._context(("TIA", "TI", "0"))
    assert early is late
    alone = guided._context(("TI",)).text[0].k
    assert torch.equal(alone[0], early.text[0].k[1])
    assert alone.data_ptr() == guided._context(("TIA",)).text[0].k.data_ptr()


@pytest.mark.parametrize("mode", ["TI", "T"])
@pytest.mark.parametrize("variant", ["17b", "1.7b"])
def test_loops_without_audio(variant: str, mode: str) -> None:
    """The release has no such mode: the same arithmetic, one branch at a time, written out."""
    entries = [case("loops", case_id) for case_id in CASES]
    entry = next(e for e in entries if e["mode"] == "TIA" and (e["variant"] == "17b") == (variant == "17b"))
    model, conditions = golden_dit(entry["dit"]), conditions_of(entry, mode)
    slots = conditions.num_slots
    frames = 1 + (entry["frame_num_used"] - 1) // 4 + slots
    x = recipe_input(entry["noise"])[:, :frames]
    silence = torch.zeros(1, frames, 8, 5, 1280)
    scheduler = make_scheduler(entry["steps"], entry["shift"])

    def branch(text: torch.Tensor, with_image: bool, timestep: int) -> torch.Tensor:
        kwargs, latents = {}, x
        if variant == "17b":
            grey = conditions.grey_latents[:, :frames].clone()
            if with_image:
                grey[:, -slots:] = conditions.reference_latents[0]
            mask = torch.zeros_like(grey[:4])
            mask[:, -slots:] = 1
            kwargs["condition"] = torch.cat([mask, grey])[None]
        else:
            tail = conditions.reference_latents[0] if with_image else torch.zeros_like(x[:, -slots:])
            latents = torch.cat([x[:, :-slots], tail], dim=1)
        with torch.no_grad():
            out = model(latents[None], torch.tensor([timestep]), text_embeds=[text], audio=silence, **kwargs)
        return out[0]

    text, negative = conditions.text_embeds[0], conditions.negative_embeds
    image, scale_t = "I" in mode, entry["scale_t"]
    for t, timestep in zip(scheduler.timesteps, model_timesteps(scheduler), strict=True):
        if variant == "17b":
            early = timestep > entry["step_change"]
            scale = scale_t if early or not image else scale_t - 2
            base = branch(negative, image and early, timestep)
            velocity = scale * (branch(text, image, timestep) - base) + base
        else:
            base, with_text = branch(negative, False, timestep), branch(text, False, timestep)
            velocity = scale_t * (with_text - base) + base
            if image:
                velocity = velocity + entry["scale_i"] * (branch(text, True, timestep) - with_text)
        x = scheduler.step(velocity, t, x).prev_sample

    noise = recipe_input(entry["noise"])[None, :, :frames]
    out = denoise(
        model, conditions, noise, guidance=table_of(entry, mode),
        scheduler=make_scheduler(entry["steps"], entry["shift"]),
    )  # fmt: skip
    torch.testing.assert_close(out[0], x[:, :-slots], atol=1e-4, rtol=0)


def test_several_videos_at_once_are_the_videos_alone() -> None:
    entry = case("loops", CASES[0])
    one = conditions_of(entry, entry["mode"])
    other_text = one.text_embeds[0] * 2 + 1
    noise = recipe_input(entry["noise"])[None]
    both = Conditions(
        text_embeds=[one.text_embeds[0], other_text],
        negative_embeds=one.negative_embeds,
        audio=None if one.audio is None else one.audio.repeat(2, 1, 1, 1, 1),
        reference_latents=None if one.reference_latents is None else one.reference_latents.repeat(2, 1, 1, 1, 1),
        grey_latents=one.grey_latents,
    )
    settings = {"guidance": table_of(entry, entry["mode"])}
    model = golden_dit(entry["dit"])
    pair = denoise(model, both, noise.repeat(2, 1, 1, 1, 1), scheduler=make_scheduler(3, 5.0), **settings)
    alone = denoise(model, one, noise, scheduler=make_scheduler(3, 5.0), **settings)
    torch.testing.assert_close(pair[0], alone[0], atol=1e-4, rtol=0)
    assert (pair[1] - pair[0]).abs().max() > 1e-2
