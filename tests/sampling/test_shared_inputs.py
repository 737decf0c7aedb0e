"""Which latent inputs the branches of a step share."""

from __future__ import annotations

import pytest
import torch

from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.model.dit import HumoDiT
from humo_rt.sampling.branches import GuidedModel
from tests.sampling.test_no_sync import conditions_of
from tests.tiny import tiny_config


@pytest.mark.parametrize(
    ("published", "names", "inputs", "rows"),
    [
        (HUMO_1_7B, ("0", "TIA", "TA", "T"), 2, [0, 1, 0, 0]),
        (HUMO_1_7B, ("TA", "T", "0"), 1, [0, 0, 0]),
        (HUMO_1_7B, ("TIA", "TA"), 2, None),
        (HUMO_17B, ("TIA", "TI", "I"), 1, [0, 0, 0]),
        (HUMO_17B, ("TIA", "TI", "0"), 2, [0, 0, 1]),
        (HUMO_17B, ("TIA",), 1, None),
    ],
)
def test_an_input_for_each_image_condition(published, names, inputs: int, rows: list[int] | None) -> None:
    config = tiny_config(published)
    seen = []

    class Watched(HumoDiT):
        def forward(self, x, timestep, **given):
            condition, rows, alike, wanted = map(given.get, ("condition", "rows", "frames_alike", "frames_wanted"))
            seen.append((x.shape[0], timestep.shape[0], condition, rows, alike, wanted))
            assert alike is None or torch.equal(x[0, :, :alike], x[1, :, :alike])
            return super().forward(x, timestep, **given)

    model, conditions = Watched(config.dit).eval(), conditions_of(config, "TIA", "cpu")
    noise = torch.randn(1, 16, 3 + conditions.num_slots, 4, 6)
    with torch.no_grad():
        guided = GuidedModel(model, conditions, noise)
        assert not guided.shares_inputs
        guided.shares_inputs = True
        together = guided.branches(noise, 900, names)
        alone = GuidedModel(model, conditions, noise, branch_batch_size=1).branches(noise, 900, names)
    latents, timesteps, condition, given, alike, wanted = seen[0]
    assert wanted == (3 if published is HUMO_1_7B else None)  # the model never sees the sampler's own slots
    torch.testing.assert_close(together[:, :, :, :wanted], alone[:, :, :, :wanted])
    assert not together[:, :, :, 3:].any() or wanted is None
    assert latents == timesteps == inputs
    assert condition is None or condition.shape[0] == inputs
    assert (None if given is None else given.tolist()) == rows
    assert alike == (3 if inputs == 2 and published is HUMO_1_7B else None)
