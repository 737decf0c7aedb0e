"""Guidance with branches computed on schedules of their own: exact when all are due, counted, and close otherwise."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from humo_rt.sampling.branches import Conditions, GuidedModel
from humo_rt.sampling.guidance import GuidanceRow, GuidanceTable
from humo_rt.sampling.reuse import GuidanceReuse, ReusingModel, computed_branches
from tests.tiny import tiny_pipeline

PROMPT = "A woman is talking to the camera."
TABLE = {"TIA": 2.0, "TA": 1.0, "T": -1.0, "0": -1.0}


class Counting(ReusingModel):
    """Counts the branches it computes."""

    forwards = 0

    def branches(self, x_NCTHW, timestep, names):
        self.forwards += len(names)
        return super().branches(x_NCTHW, timestep, names)


def guided(every, below: float = 1000.0) -> tuple[Counting, torch.Tensor]:
    pipeline = tiny_pipeline("frames")
    config = pipeline.config.dit
    noise = torch.randn(1, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    positive, negative = pipeline.encoder.text.encode([PROMPT, ""])
    conditions = Conditions(
        text_embeds=[positive],
        negative_embeds=negative,
        audio=torch.randn(1, 2, config.audio_window, config.audio_bands, config.audio_dim),
        reference_latents=torch.randn(1, 16, 1, 4, 6),
    )
    return Counting(pipeline.dit, conditions, noise, reuse=GuidanceReuse(every=every, below=below)), noise


def counts(every, timesteps, below: float = 1000.0, weights=None) -> list[int]:
    """Branches computed at each step."""
    model, noise = guided(every, below)
    seen = []
    for timestep in timesteps:
        before = model.forwards
        with torch.no_grad():
            model.velocity(noise, timestep, weights or TABLE)
        seen.append(model.forwards - before)
    expected = computed_branches(GuidanceTable((GuidanceRow(weights or TABLE),)), timesteps, model._schedule.reuse)
    assert seen == [len(names) for names in expected]
    return seen


@pytest.mark.parametrize("branch_batch_size", [None, 1, 3])
def test_nothing_kept_is_plain_guidance(branch_batch_size) -> None:
    torch.manual_seed(0)
    model, noise = guided(1)
    model.branch_batch_size = branch_batch_size
    with torch.no_grad():
        for timestep in (900, 500):
            plain = GuidedModel.velocity(model, noise, timestep, TABLE)
            torch.testing.assert_close(model.velocity(noise, timestep, TABLE), plain)


def test_a_kept_difference_is_the_one_of_the_step_it_was_computed_at() -> None:
    model, noise = guided({"TA": 1, "T": 2, "0": 2})
    later = noise + 0.1
    with torch.no_grad():
        first, second = (
            {name: GuidedModel.velocity(model, x, t, {name: 1.0}) for name in TABLE}
            for x, t in ((noise, 900), (later, 800))
        )
        model.velocity(noise, 900, TABLE)
        found = model.velocity(later, 800, TABLE)
    expected = 2 * second["TIA"] + second["TA"]
    for name in ("T", "0"):
        expected = expected - (second["TIA"] + first[name] - first["TIA"])
    torch.testing.assert_close(found, expected)


def test_each_branch_has_its_own_schedule() -> None:
    assert counts(2, [900, 800, 700, 600]) == [4, 1, 4, 1]
    assert counts({"T": 2, "0": 3}, [900, 800, 700, 600, 500]) == [4, 2, 3, 3, 3]
    assert counts(3, [950, 900, 800, 700], below=800) == [4, 4, 1, 1]


def test_another_anchor_starts_anew() -> None:
    model, noise = guided(100)
    with torch.no_grad():
        for weights, forwards in ((TABLE, 4), ({"TA": 2.0, "0": -1.0}, 6), ({"TA": 2.0, "0": -1.0}, 7)):
            model.velocity(noise, 500, weights)
            assert model.forwards == forwards


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "guidance_reuse 0 is below 1"),
        (2.0, "guidance_reuse 2.0 is not a whole number"),
        (True, "guidance_reuse True is not a number"),
        ([2], r"guidance_reuse \[2\] is not a whole number"),
        ({"TA": 0}, "guidance_reuse of branch 'TA' 0 is below 1"),
        ({"AT": 2}, "branch 'AT' is not in canonical order: write 'TA'"),
        ({"X": 2}, "branch 'X' is not made of T, I and A"),
        ({"every": 2, "bellow": 900}, "'bellow': 900} has the unknown key 'bellow'"),
        ({"below": 900}, "'below': 900} lacks 'every'"),
        ({"TA": 2, "below": 900}, "'below': 900} has the unknown key 'TA'"),
        ({"every": 2, "below": 1001}, "guidance_reuse below 1001 is above 1000"),
        ({"every": 2, "below": "late"}, "guidance_reuse below 'late' is not a number"),
        ({"every": 2, "below": None}, "guidance_reuse below None is not a number"),
        ("0", "guidance_reuse 0 is below 1"),
        ("", "'' is neither like 2 nor like TA=2"),
        ("x", "'x' is neither like 2"),
        ("TA", "'TA' is neither like 2"),
        ("TA=x", "'TA=x' is neither like 2"),
        ("TA=2,3", "'TA=2,3' is neither like 2"),
        ("below=900", "'below=900' is neither like 2"),
        ("TA=2,TA=3", "'TA=2,TA=3' names TA twice"),
        ("TA=2,below=900,below=800", "names below twice"),
    ],
)
def test_bad_schedules_are_refused(value, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuidanceReuse.parse(value)


def test_numbers_of_numpy_are_numbers() -> None:
    reuse = GuidanceReuse.parse({"every": {"TA": np.int64(2)}, "below": np.float32(900)})
    assert json.dumps(reuse.to_json()) == '{"every": {"TA": 2}, "below": 900.0}'
    assert GuidanceReuse.parse(np.int64(2)) == GuidanceReuse(every=2)


def test_settings_go_through_json() -> None:
    for value in (2, {"TA": 2, "0": 4}, GuidanceReuse(every={"T": 3}, below=900.0)):
        reuse = GuidanceReuse.parse(value)
        assert GuidanceReuse.parse(reuse.to_json()) == reuse


def test_text_is_read() -> None:
    assert GuidanceReuse.parse(" TA=2, 0=4") == GuidanceReuse(every={"TA": 2, "0": 4})
    assert GuidanceReuse.parse("3") == GuidanceReuse(every=3)
    assert GuidanceReuse.parse("TA=2,0=4,below=900") == GuidanceReuse(every={"TA": 2, "0": 4}, below=900.0)


def test_a_branch_that_guidance_lacks_is_named() -> None:
    table = GuidanceTable((GuidanceRow({"TA": 3.0, "0": -2.0}),))
    with pytest.raises(ValueError, match="'T' is not part of this guidance: it has 0, TA"):
        GuidanceReuse(every={"T": 2}).checked(table)


def test_generate_takes_it_and_says_so() -> None:
    pipeline = tiny_pipeline("frames")
    options = {"num_frames": 9, "seed": 3, "num_inference_steps": 4, "image": None}
    table = GuidanceTable((GuidanceRow({"T": 3.0, "0": -2.0}),))
    exact, kept, every = (
        pipeline.generate(PROMPT, guidance=table, guidance_reuse=reuse, **options) for reuse in (None, {"0": 2}, 1)
    )
    assert kept.settings["guidance_reuse"] == {"every": {"0": 2}, "below": 1000.0}
    assert "guidance_reuse" not in exact.settings or exact.settings["guidance_reuse"] is None
    assert (kept.frames != exact.frames).any()
    assert abs(every.frames.astype(int) - exact.frames).max() <= 1
    assert abs(kept.frames.astype(int) - exact.frames).mean() < 20
