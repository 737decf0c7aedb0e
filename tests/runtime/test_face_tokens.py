"""Audio attention on face tokens only, against the dense masked computation."""

from __future__ import annotations

import pytest
import torch

from humo_rt.config import HUMO_1_7B
from humo_rt.model.attention import KeyValue
from humo_rt.model.block import AudioSubBlock
from humo_rt.runtime.face_tokens import attend_faces, gather_face_tokens
from tests.tiny import tiny_config

FRAMES, TOKENS = 4, 12


@pytest.fixture
def sub_block():
    torch.manual_seed(0)
    return AudioSubBlock(tiny_config(HUMO_1_7B).dit).eval().requires_grad_(False)


def project(sub_block, seed: int) -> KeyValue:
    attention = sub_block.audio_cross_attn
    tokens = torch.randn(3, FRAMES, 4, attention.k.in_features, generator=torch.Generator().manual_seed(seed))
    return attention.project(tokens)


def masks(speakers: int) -> torch.Tensor:
    """Uneven frames, one without a face, and the last, a reference, inside as a whole."""
    mask = torch.rand(speakers, FRAMES, TOKENS, generator=torch.Generator().manual_seed(1)) < 0.3
    mask[:, 1] = False
    mask[:, 0, :2] = True
    mask[:, -1] = True
    return mask.flatten(1).float()


@pytest.mark.parametrize("speakers", [1, 2])
def test_agrees_with_the_dense_masked_attention(sub_block, speakers):
    x = torch.randn(3, FRAMES * TOKENS, 32, generator=torch.Generator().manual_seed(2))
    before = x.clone()
    weights, audios = masks(speakers), [project(sub_block, seed) for seed in range(speakers)]
    dense = x + sum(weight[:, None] * sub_block(x, audio) for weight, audio in zip(weights, audios, strict=True))
    sparse = attend_faces(sub_block, x, audios, gather_face_tokens(weights, frames=FRAMES, tokens=TOKENS))
    torch.testing.assert_close(sparse, dense)
    outside = weights.sum(0) == 0
    assert outside.any()
    assert torch.equal(sparse[:, outside], x[:, outside])
    assert torch.equal(x, before)


def test_only_face_tokens_are_computed():
    part, whole = gather_face_tokens(masks(1), frames=FRAMES, tokens=TOKENS)[0]
    assert whole.frames_F.tolist() == [FRAMES - 1]
    assert 1 not in part.frames_F
    assert len(part.tokens_FM) < len(part.frames_F) * TOKENS
    assert len(part.tokens_FM) + len(whole.tokens_FM) >= masks(1).sum()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(1, 47), r"\(1, 47\) do not fit 4 latent frames of 12 tokens: give \(speakers, 48\)"),
        (torch.ones(48), r"\(48,\) do not fit"),
        (torch.full((1, 48), 0.5), "not all 0 or 1: threshold"),
        (torch.full((1, 48), float("nan")), "not all 0 or 1"),
        (torch.stack([torch.ones(48), torch.zeros(48)]), "speaker 1 holds no face: mark at least one token"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        gather_face_tokens(weights, frames=FRAMES, tokens=TOKENS)


def test_a_speaker_without_a_mask_is_refused(sub_block):
    faces = gather_face_tokens(masks(1), frames=FRAMES, tokens=TOKENS)
    with pytest.raises(ValueError, match="2 speakers have 1 face masks: .* give one for each audio"):
        attend_faces(sub_block, torch.zeros(3, 48, 32), [project(sub_block, 0)] * 2, faces)
