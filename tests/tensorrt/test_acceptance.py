"""Requests that a graph cannot serve, refused while there is still nothing to lose."""

from __future__ import annotations

import numpy as np
import pytest

from humo_rt.request import GenerationRequest
from humo_rt.sampling.guidance import GuidanceRow, GuidanceTable
from humo_rt.sampling.reuse import GuidanceReuse, computed_branches
from humo_rt.tensorrt.acceptance import branch_counts, require_served
from humo_rt.tensorrt.bindings import Size
from humo_rt.tensorrt.profiles import Profile
from tests.tensorrt.test_engine import make_rig
from tests.tiny import tiny_pipeline

TABLE = GuidanceTable(
    (
        GuidanceRow({"TIA": 2.0, "TA": -0.5, "T": -0.3, "0": -0.2}, above=900),
        GuidanceRow({"TIA": 2.0, "TA": -0.5, "0": -0.5}),
    )
)
TIMESTEPS = (999, 800, 600, 400, 200)
CONDITIONS = {
    "image": np.zeros((32, 32, 3), dtype=np.uint8),
    "audio": (np.zeros(16_000, dtype=np.float32), 16_000),
    "num_frames": 9,
    "height": 32,
    "width": 48,
}


@pytest.mark.parametrize(
    ("size", "reuse", "counts"),
    [
        (None, None, {4, 3}),
        (1, None, {1}),
        (2, None, {2, 1}),
        (3, None, {3, 1}),
        (8, None, {4, 3}),
        (None, 2, {4, 3, 1}),
        (None, {"0": 2}, {4, 3, 2}),
        (2, 2, {2, 1}),
    ],
)
def test_forwards_have_as_many_branches_as_run_together(size, reuse, counts):
    assert branch_counts(sets_of(reuse), size) == counts


def sets_of(reuse) -> list[tuple[str, ...]]:
    return computed_branches(TABLE, TIMESTEPS, None if reuse is None else GuidanceReuse.parse(reuse))


def profile(branches: int, *, smallest: int = 1) -> Profile:
    return Profile(
        smallest=Size(branches=smallest, frames=4, height=4, width=6),
        typical=Size(branches=branches, frames=4, height=4, width=6),
        largest=Size(branches=branches, frames=4, height=4, width=6),
    )


def served(graph, **changes) -> None:
    request = GenerationRequest(prompt="A talk.", **CONDITIONS | {"guidance": TABLE} | changes)
    require_served(graph, request.validated(tiny_pipeline("frames").config), sets_of(changes.get("guidance_reuse")))


def test_a_request_within_the_profiles_is_served(tmp_path):
    rig = make_rig(tmp_path)
    rig.engine.profiles = (profile(4),)
    served(rig.engine)
    served(rig.engine, guidance_reuse=2)
    served(rig.engine, branch_batch_size=1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 64}, "4 branches, 4 frames, 4x8 fit no profile of dit.engine .*--size 48x32 --size 64x32"),
        ({"num_frames": 13}, "4 branches, 5 frames, 4x6 fit no profile"),
        ({"image": [CONDITIONS["image"]] * 2}, "4 branches, 5 frames, 4x6 fit no profile"),
    ],
)
def test_a_size_outside_the_profiles_is_refused(tmp_path, changes, said):
    rig = make_rig(tmp_path)
    rig.engine.profiles = (profile(4),)
    with pytest.raises(ValueError, match=said):
        served(rig.engine, **changes)


def test_every_number_of_branches_must_fit(tmp_path):
    rig = make_rig(tmp_path)
    rig.engine.profiles = (profile(3),)
    with pytest.raises(ValueError, match=r"4 branches, .* fit no profile .* --branches 4"):
        served(rig.engine)
    served(rig.engine, branch_batch_size=3)
    rig.engine.profiles = (profile(4, smallest=3),)
    served(rig.engine)
    with pytest.raises(ValueError, match="1 branches, .* fit no profile"):
        served(rig.engine, branch_batch_size=3)


@pytest.mark.parametrize(
    ("parts", "masks", "said"),
    [
        ({}, (0, 0, 16, 16), "takes no face mask: export it with --face-mask"),
        ({}, "predictor", "takes no face mask: export it with --face-mask"),
        ({"face_mask": True}, "predictor", "predicts no face mask: export it with --mask-predictor"),
    ],
)
def test_a_mask_that_the_graph_lacks_is_refused(tmp_path, parts, masks, said):
    rig = make_rig(tmp_path, **parts)
    rig.engine.profiles = (profile(4),)
    with pytest.raises(ValueError, match=said):
        served(rig.engine, face_masks=masks)
    whole = make_rig(tmp_path, face_mask=True, mask_predictor=True)
    whole.engine.profiles = (profile(4),)
    served(whole.engine, face_masks=masks)


def test_the_pipeline_asks_before_it_encodes(tmp_path, monkeypatch):
    pipeline, rig = tiny_pipeline("frames"), make_rig(tmp_path)
    monkeypatch.setattr(pipeline, "dit", rig.engine)
    monkeypatch.setattr(pipeline, "dit_engine", "dit.engine")
    monkeypatch.setattr(pipeline.encoder, "encode", None)
    with pytest.raises(ValueError, match="fit no profile of dit.engine"):
        pipeline.generate("A talk.", **CONDITIONS | {"width": 256})
    with pytest.raises(ValueError, match="takes no face mask"):
        pipeline.generate("A talk.", **CONDITIONS, face_masks=(0, 0, 16, 16))
