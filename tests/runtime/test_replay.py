"""What a recording holds and when it pays; recording itself needs a GPU."""

from __future__ import annotations

import torch

from humo_rt.config import HUMO_1_7B, NANO
from humo_rt.model.attention import BiasedKeyValue, KeyValue
from humo_rt.model.dit import Context
from humo_rt.model.face_tokens import TokenGroup
from humo_rt.runtime import replay

SIZE = (26, 60, 104)


def make_inputs() -> dict:
    text = tuple(BiasedKeyValue(*torch.ones(3, 2)) for _ in range(2))
    return {
        "context": Context(text, (KeyValue(*torch.ones(2, 2)),)),
        "condition": None,
        "rope": (torch.ones(1), torch.ones(2)),
        "rows": torch.tensor([0, 0]),
        "face_mask": (TokenGroup(*torch.ones(3, 2)),),
        "return_face_mask": False,
    }


def test_every_tensor_is_found_and_the_structure_kept() -> None:
    inputs = make_inputs()
    own = replay._mapped(inputs, torch.clone)
    assert type(own["context"].text[1]) is BiasedKeyValue
    assert own["condition"] is None
    given, copies = replay._tensors(inputs), replay._tensors(own)
    assert type(own["face_mask"][0]) is TokenGroup
    assert len(given) == len(copies) == 2 * 3 + 2 + 2 + 1 + 3
    assert all(torch.equal(a, b) and a is not b for a, b in zip(given, copies, strict=True))


def test_what_two_calls_must_share() -> None:
    x, t = torch.ones(2, 3), torch.ones(2)
    signature = replay._signature(object, x, t, make_inputs())
    assert signature == replay._signature(object, x + 1, t, make_inputs())
    assert signature != replay._signature(object, x[:1], t, make_inputs())
    assert signature != replay._signature(int, x, t, make_inputs())
    assert signature != replay._signature(object, x, t, make_inputs() | {"return_face_mask": True})
    assert signature != replay._signature(object, x, t, make_inputs() | {"rows": None})


def test_nano_is_replayed_and_a_full_size_is_not() -> None:
    assert replay.block_work(NANO.dit, 4, (26, 16, 16)) < replay.LARGEST_BLOCK
    assert replay.block_work(HUMO_1_7B.dit, 1, SIZE) > 10 * replay.LARGEST_BLOCK
    assert replay.block_work(HUMO_1_7B.dit, 1, SIZE) * 30 / 416e12 > 0.99
