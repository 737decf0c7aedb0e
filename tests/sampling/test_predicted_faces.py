"""Masks from the mask predictor: whose prediction counts, when, and what is never masked."""

from __future__ import annotations

import torch

from humo_rt.config import HUMO_1_7B
from humo_rt.model.dit import HumoDiT
from humo_rt.sampling.branches import Conditions
from humo_rt.sampling.denoise import denoise
from humo_rt.sampling.guidance import GuidanceRow, GuidanceTable
from humo_rt.sampling.predicted_faces import PredictedFaces
from humo_rt.sampling.reuse import GuidanceReuse
from humo_rt.sampling.schedule import make_scheduler
from tests.tiny import tiny_config

NOISE = torch.zeros(1, 16, 4, 2, 3)  # three frames and a reference
TABLE = GuidanceTable((GuidanceRow({"0": -1.0, "T": -1.0, "TIA": 2.0, "TA": 1.0}),))


class Recorder:
    """A model that returns the given logits and remembers the masks it got."""

    def __init__(self, logits_BTHW: torch.Tensor) -> None:
        self.logits, self.calls = logits_BTHW, []

    def __call__(self, x, timestep, *, face_mask, return_face_mask=False):
        self.calls.append((face_mask.clone(), return_face_mask))
        return (x, self.logits) if return_face_mask else x


def step(faces: PredictedFaces, model: Recorder, *groups: tuple[str, ...]) -> None:
    faces.begin_step([name for group in groups for name in group])
    for group in groups:
        faces.forward(model, torch.zeros(len(group), *NOISE.shape[1:]), None, {}, group)


def test_the_richest_branch_decides_for_all_branches_of_the_next_step():
    logits = torch.full((2, 4, 2, 3), -1.0)
    logits[1, :, 0, 0] = 1  # TIA sees a face in the first pixel, T in the last
    logits[0, :, 1, 2] = 1
    model, faces = Recorder(logits), PredictedFaces(NOISE, 1, 0.5)
    step(faces, model, ("0",), ("T", "TIA"))
    step(faces, model, ("0",), ("T", "TIA"))
    first, second = model.calls[:2], model.calls[2:]
    assert [asked for _, asked in first] == [False, True]
    assert all((mask == 1).all() for mask, _ in first)
    expected = torch.zeros(4, 2, 3)
    expected[:, 0, 0] = 1
    expected[3] = 1  # the reference
    for mask, _ in second:
        assert all(torch.equal(of_branch, expected) for of_branch in mask)


def test_the_threshold_is_a_probability():
    logits = torch.logit(torch.tensor([[0.2, 0.69, 0.71], [0.5, 0.9, 0.1]])).expand(1, 4, 2, 3)
    model, faces = Recorder(logits), PredictedFaces(NOISE, 1, 0.7)
    step(faces, model, ("TA",))
    step(faces, model, ("TA",))
    assert model.calls[1][0][0, 0].tolist() == [[0, 0, 1], [0, 1, 0]]


def test_a_frame_without_a_predicted_face_is_acted_on_everywhere():
    logits = torch.full((1, 4, 2, 3), -1.0)
    logits[0, 1, 0, 0] = 1
    model, faces = Recorder(logits), PredictedFaces(NOISE, 1, 0.5)
    step(faces, model, ("TA",))
    step(faces, model, ("TA",))
    assert model.calls[1][0][0].sum(dim=(-2, -1)).tolist() == [6, 1, 6, 6]


def run(predict_faces: float | None, **options) -> torch.Tensor:
    config = tiny_config(HUMO_1_7B).dit
    torch.manual_seed(0)
    model = HumoDiT(config).eval()
    model.mask_predictor.layers[-1].weight.data.mul_(20)  # a new predictor is unsure everywhere
    conditions = Conditions(
        text_embeds=[torch.randn(5, config.text_dim)],
        negative_embeds=torch.randn(7, config.text_dim),
        audio=torch.randn(1, 3, config.audio_window, config.audio_bands, config.audio_dim),
        reference_latents=torch.randn(1, 16, 1, 4, 6),
        predict_faces=predict_faces,
    )
    noise = torch.randn(1, 16, 4, 4, 6)
    return denoise(model, conditions, noise, guidance=TABLE, scheduler=make_scheduler(4, 5.0), **options)


def test_a_prediction_changes_the_video_in_whatever_groups_branches_run():
    predicted = run(0.5)
    assert (predicted - run(None)).abs().max() > 1e-3
    torch.testing.assert_close(run(0.5, branch_batch_size=1), predicted, atol=1e-4, rtol=0)
    torch.testing.assert_close(run(0.5, reuse=GuidanceReuse(every=1)), predicted, atol=1e-4, rtol=0)


def test_a_face_everywhere_changes_nothing():
    assert torch.equal(run(1e-30), run(None))
