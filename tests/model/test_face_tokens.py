"""Audio attention of several speakers, and on face tokens only, against the dense computation written out."""

from __future__ import annotations

import pytest
import torch

from humo_rt.config import HUMO_1_7B, HUMO_17B
from humo_rt.model.attention import KeyValue
from humo_rt.model.block import AudioSubBlock
from humo_rt.model.dit import HumoDiT
from humo_rt.model.face_tokens import gather_face_tokens, gathering_pays
from humo_rt.runtime.fusing import fuse
from tests.tiny import tiny_config

FRAMES, TOKENS = 4, 12
SPEAKERS = [None, 2, 3]


@pytest.fixture
def sub_block() -> AudioSubBlock:
    torch.manual_seed(0)
    return AudioSubBlock(tiny_config(HUMO_1_7B).dit).eval().requires_grad_(False)


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def project(sub_block: AudioSubBlock, speakers: int | None) -> KeyValue:
    """Of three videos; one more axis in front for several speakers."""
    attention = sub_block.audio_cross_attn
    rows = torch.arange((speakers or 1) * 3).unflatten(0, (speakers, 3) if speakers else (3,))
    return attention.project(noise(rows.numel(), FRAMES, 4, attention.k.in_features, seed=3)).select(rows)


def weights(speakers: int | None, *, soft: bool, batch: int = 3) -> torch.Tensor:
    """Uneven frames, one without a face, and the last, a reference, inside as a whole for the first speaker."""
    shape = (*([speakers] if speakers else []), batch, FRAMES, TOKENS)
    generator = torch.Generator().manual_seed(1)
    weight = (torch.rand(shape, generator=generator) < 0.15).float()
    if soft:
        weight = weight * torch.rand(shape, generator=generator)
    weight[..., 1, :] = 0
    weight[..., 0, :2] = 1
    weight[..., -1, :] = torch.tensor([1.0, 0.0, 0.0])[:speakers, None, None] if speakers else 1
    return weight.flatten(-2)


@pytest.mark.parametrize("soft", [False, True], ids=["binary", "soft"])
@pytest.mark.parametrize("speakers", SPEAKERS)
def test_dense_and_sparse_agree_with_the_formula(sub_block, speakers, soft):
    x, audio = noise(3, FRAMES * TOKENS, 32, seed=2), project(sub_block, speakers)
    weight = weights(speakers, soft=soft)
    pairs = [(audio, weight)] if speakers is None else zip(map(KeyValue, audio.k, audio.v), weight, strict=True)
    expected = x + sum(w[..., None] * sub_block(x, kv) for kv, w in pairs)
    dense = sub_block.add_to(x, audio, weight[..., None])
    sparse = sub_block.add_to(x.clone(), audio, gather_face_tokens(weight, frames=FRAMES))
    torch.testing.assert_close(dense, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(sparse, dense, atol=1e-6, rtol=0)
    outside = (weight.reshape(-1, FRAMES * TOKENS) == 0).all(0)
    assert outside.any()
    assert torch.equal(sparse[:, outside], x[:, outside])


def test_speakers_without_masks_add(sub_block):
    x, audio = noise(3, FRAMES * TOKENS, 32, seed=2), project(sub_block, 2)
    expected = sum(sub_block(x, KeyValue(k, v)) for k, v in zip(audio.k, audio.v, strict=True))
    torch.testing.assert_close(sub_block(x, audio), expected, atol=1e-6, rtol=0)


def test_only_face_tokens_are_gathered():
    weight = weights(None, soft=False, batch=1)
    part, whole = gather_face_tokens(weight, frames=FRAMES)
    assert whole.frames_F.tolist() == [FRAMES - 1]
    assert 1 not in part.frames_F
    assert len(part.tokens_M) < len(part.frames_F) * TOKENS
    assert len(part.tokens_M) + len(whole.tokens_M) >= weight.sum()
    tokens = torch.cat([part.tokens_M, whole.tokens_M])
    assert len(tokens.unique()) == len(tokens)


@pytest.mark.parametrize(("width", "pays"), [(1, True), (9, True), (10, False), (12, False)])
def test_up_to_three_quarters_of_the_tokens_gathering_pays(width, pays):
    weight = torch.zeros(1, FRAMES, TOKENS)
    weight[..., :width] = 1
    assert gathering_pays(gather_face_tokens(weight.flatten(1), frames=FRAMES), FRAMES * TOKENS) is pays


@pytest.mark.parametrize("published", [HUMO_1_7B, HUMO_17B], ids=lambda config: config.name)
@pytest.mark.parametrize("speakers", SPEAKERS)
@pytest.mark.parametrize("fused", [False, True], ids=["eager", "fused"])
def test_a_whole_model_gives_the_same_with_face_tokens_as_with_the_mask(published, speakers, fused):
    torch.manual_seed(0)
    config = tiny_config(published).dit
    dit = HumoDiT(config).eval().requires_grad_(False)
    frames, batch, rows = 4, 2, torch.tensor([0, 1])
    audio_rows = rows if speakers is None else torch.arange(speakers * batch).view(speakers, batch)
    features = noise(audio_rows.numel(), frames, config.audio_window, config.audio_bands, config.audio_dim, seed=4)
    context = dit.project_context(noise(batch, 5, config.text_dim, seed=5), features).select(rows, audio_rows)
    mask = torch.zeros(*([speakers] if speakers else []), batch, frames, 8, 12)
    mask[..., :3, 2:5, 3:6] = 1
    mask[(0, slice(None), -1) if speakers else (slice(None), -1)] = 1
    faces = dit.place_faces(mask)
    assert isinstance(faces, tuple)
    inputs = {
        "x_BCTHW": noise(batch, 16, frames, 8, 12, seed=6),
        "timestep_B": torch.tensor([900, 20]),
        "context": context,
        "condition": noise(batch, 20, frames, 8, 12, seed=7) if config.in_channels > 16 else None,
        "return_face_mask": True,
    }
    eager, free = dit(**inputs, face_mask=mask), dit(**inputs)
    if fused:
        fuse(dit)
    for given in (faces, mask):
        for found, expected, elsewhere in zip(dit(**inputs, face_mask=given), eager, free, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-6 if not fused else 1e-5, rtol=0)
            assert (expected - elsewhere).abs().max() > 1e-4


@pytest.mark.parametrize("speakers", SPEAKERS)
def test_blocks_compile_without_a_break(sub_block, speakers):
    x, audio = noise(3, FRAMES * TOKENS, 32, seed=2), project(sub_block, speakers)
    weight = weights(speakers, soft=True)
    torch.compiler.reset()
    compiled = torch.compile(sub_block.add_to, fullgraph=True, backend="aot_eager")
    for faces in (None, weight[..., None], gather_face_tokens(weight, frames=FRAMES)):
        expected = sub_block.add_to(x.clone(), audio, faces)
        torch.testing.assert_close(compiled(x.clone(), audio, faces), expected, atol=1e-6, rtol=0)


def test_a_mask_of_most_of_the_video_stays_a_mask():
    dit = HumoDiT(tiny_config(HUMO_1_7B).dit)
    mask = torch.ones(1, 3, 8, 12)
    assert dit.place_faces(mask) is mask
