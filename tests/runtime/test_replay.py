"""What a recording holds and when it pays; recording itself needs a GPU."""

from __future__ import annotations

import pytest
import torch

from humo_rt.config import HUMO_1_7B, NANO
from humo_rt.model.attention import BiasedKeyValue, KeyValue
from humo_rt.model.dit import Context
from humo_rt.model.face_tokens import TokenGroup
from humo_rt.runtime import replay
from humo_rt.sampling.branches import Conditions
from humo_rt.sampling.denoise import denoise
from humo_rt.sampling.guidance import GuidanceRow, GuidanceTable
from humo_rt.sampling.reuse import GuidanceReuse, computed_branches
from humo_rt.sampling.schedule import make_scheduler, model_timesteps
from tests.tiny import tiny_pipeline

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


def test_texts_in_a_list_are_found_too() -> None:
    x, t, texts = torch.ones(2, 3), torch.ones(2), [torch.ones(3, 4), torch.ones(5, 4)]
    own = replay._mapped({"text_embeds": texts}, torch.clone)
    assert [text.shape for text in own["text_embeds"]] == [text.shape for text in texts]
    signature = replay._signature(object, x, t, {"text_embeds": texts})
    assert signature == replay._signature(object, x, t, own)
    assert signature != replay._signature(object, x, t, {"text_embeds": texts[::-1]})


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


@pytest.fixture
def recorded(monkeypatch) -> list:
    """Every recording that is made, by a stand-in that runs its forward anew instead of replaying it."""
    made = []

    class Eager(replay._Recording):
        def __init__(self, dit, signature, x, timestep, inputs) -> None:
            self.signature = signature
            self._dit, self._inputs = dit, replay._mapped(inputs, torch.clone)
            self._own = replay._tensors(self._inputs)
            self.fill(replay._tensors(inputs))
            made.append(signature)

        def replay(self, x, timestep):
            return self._dit(x, timestep, **self._inputs)

    monkeypatch.setattr(replay, "_Recording", Eager)
    return made


def plan() -> dict:
    """Guidance that changes halfway, each branch computed on a schedule of its own."""
    early = GuidanceRow({"TIA": 2.0, "TA": 1.0, "T": -1.0, "0": -1.0}, 500)
    late = GuidanceRow({"TA": 2.0, "T": 0.5, "0": -1.5})
    reuse = GuidanceReuse(every={"TA": 2, "T": 3, "0": 4})
    return {"guidance": GuidanceTable((early, late)), "reuse": reuse, "scheduler": make_scheduler(18, 1.0)}


def generation(model, *, frames: int = 2, predict_faces: float | None = None) -> torch.Tensor:
    generator, dit = torch.Generator().manual_seed(0), model.config

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    conditions = Conditions(
        text_embeds=[noise(5, dit.text_dim)],
        negative_embeds=noise(7, dit.text_dim),
        audio=noise(1, frames, dit.audio_window, dit.audio_bands, dit.audio_dim),
        reference_latents=noise(1, 16, 1, 4, 6),
        predict_faces=predict_faces,
    )
    return denoise(model, conditions, noise(1, 16, frames + 1, 4, 6), **plan())


@pytest.mark.parametrize("predict_faces", [None, 0.5])
def test_a_generation_records_each_forward_once_however_many_it_needs(
    recorded, monkeypatch, predict_faces: float | None
) -> None:
    monkeypatch.setattr(replay, "MOST_RECORDINGS", 2)
    dit, options = tiny_pipeline("frames").dit, plan()
    sets = set(computed_branches(options["guidance"], model_timesteps(options["scheduler"]), options["reuse"]))
    assert len(sets) == 10
    replayed = replay.ReplayedDiT(dit)
    expected = generation(dit, predict_faces=predict_faces)
    for _ in range(2):
        assert torch.equal(generation(replayed, predict_faces=predict_faces), expected)
        assert len(recorded) <= len(sets)


def test_those_of_a_generation_that_is_over_make_room(recorded) -> None:
    replayed, kept = replay.ReplayedDiT(tiny_pipeline("frames").dit), set()
    for frames in range(1, 4):
        generation(replayed, frames=frames)
        kept.add(len(replayed._recordings))
    assert len(kept) == 1
    assert 3 * kept.pop() == len(recorded)
