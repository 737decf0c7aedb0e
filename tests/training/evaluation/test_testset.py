"""Held-out clips and what their captions state."""

from __future__ import annotations

import pytest

from training.data.procedural import ATTRIBUTES, caption_from_attributes
from training.data.procedural.seeds import stream
from training.evaluation.testset import stated

WOMAN = {
    "gender": "woman",
    "hair_style": "bob",
    "hair_colour": "red",
    "glasses": "none",
    "beard": "none",
    "clothes_colour": "green",
    "clothes_pattern": "plain",
    "background_colour": "grey",
    "background_pattern": "dotted",
}


@pytest.mark.parametrize(
    ("caption", "unsaid"),
    [
        ("A woman with a red bob wearing a green shirt is talking.", {"glasses", "beard", "clothes_pattern"}),
        ("A woman with no glasses wearing a plain green top is talking.", {"beard"}),
        ("A woman wearing a green plain sweater in front of a plain wall.", {"glasses", "beard"}),
        ("A clean-shaven face and no glasses before a plain wall.", {"clothes_pattern"}),
    ],
)
def test_what_is_absent_counts_only_when_it_is_mentioned(caption: str, unsaid: set[str]) -> None:
    assert set(WOMAN) - stated(caption, WOMAN) == unsaid


def test_what_is_visible_is_always_stated() -> None:
    visible = WOMAN | {"glasses": "round", "clothes_pattern": "striped"}
    for i in range(40):
        caption = caption_from_attributes(visible, stream("test", i))
        assert stated(caption, visible) >= set(ATTRIBUTES) - {"beard"}
        assert "glasses" in caption
        assert "striped" in caption or "stripes" in caption
