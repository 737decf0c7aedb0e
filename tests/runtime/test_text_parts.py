"""Texts as long as they are: which parts there are, and that blocks get from them what they get from one for all."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch

from humo_rt.model.attention import BiasedKeyValue, TextAttention
from humo_rt.runtime import text_parts
from humo_rt.runtime.float8_block import fuse_float8
from humo_rt.runtime.fusing import fuse
from humo_rt.runtime.text_parts import ProjectedTexts, TextParts, project_texts
from tests.runtime.test_fused_block import CONFIGS, FRAMES, make_dit

HEADS, HEAD_DIM, LIMIT = 2, 64, 512


def project(*lengths: int, limit: int = LIMIT) -> ProjectedTexts:
    attention = TextAttention(HEADS * HEAD_DIM, HEADS, 1e-6).bfloat16().requires_grad_(False)
    with mock.patch.object(text_parts, "FEWEST_CHANNELS", 1):
        return project_texts(attention, torch.randn(len(lengths), limit, HEADS * HEAD_DIM), lengths)


class TestSelection:
    def test_short_texts_have_few_keys_and_their_neighbours_share_them(self):
        texts = project(20, 126)
        found = texts.select(torch.tensor([1, 0, 0]))
        assert isinstance(found, TextParts)
        negative, prompt = found.parts
        assert negative.k.shape == (1, HEADS, 128, HEAD_DIM)
        assert prompt.k.shape == prompt.v.shape == (2, HEADS, 32, HEAD_DIM)
        assert prompt.k.stride(0) == 0
        assert torch.equal(prompt.k[1], texts.k[0, :, :32])
        assert prompt.bias_BS[0].tolist() == [0.0] * 20 + [pytest.approx(math.log(LIMIT - 20))] + [-math.inf] * 11

    def test_an_empty_text_is_padding_alone(self):
        (part,) = project(0).select(torch.tensor([0, 0])).parts
        assert part.k.shape == (2, HEADS, 32, HEAD_DIM)
        assert part.bias_BS[0].tolist() == [pytest.approx(math.log(LIMIT))] + [-math.inf] * 31

    @pytest.mark.parametrize(
        ("lengths", "rows"),
        [((33, 126), [0, 1]), ((126, 512), [0, 1, 1]), ((3, 4), [0, 1, 0, 1, 0])],
        ids=["none is short", "none is short by far", "too many parts"],
    )
    def test_one_text_for_all_where_parts_spare_nothing(self, lengths, rows):
        texts = project(*lengths)
        found = texts.select(torch.tensor(rows))
        assert isinstance(found, BiasedKeyValue)
        assert torch.equal(found.k, texts.k[rows])

    def test_a_text_without_padding(self):
        (part,) = project(7, limit=7).select(torch.tensor([0])).parts
        assert part.k.shape == (1, HEADS, 7, HEAD_DIM)


class TestBlocks:
    @pytest.fixture
    def case(self, monkeypatch):
        """A DiT, inputs of three samples without their context, and rows of texts: one short, one not."""
        monkeypatch.setattr(text_parts, "FEWEST_CHANNELS", 1)
        config = CONFIGS["nano"]
        dit, generator = make_dit(config), torch.Generator().manual_seed(1)
        texts = [torch.randn(n, config.text_dim, generator=generator) for n in (3, 6)]
        features = (config.audio_window, config.audio_bands, config.audio_dim)
        audio = torch.randn(1, FRAMES, *features, generator=generator)
        x = torch.randn(3, 16, FRAMES, 6, 10, generator=generator)
        return dit, texts, audio, x, torch.tensor([1, 0, 0])

    @staticmethod
    def forward(dit, texts, audio, x, rows):
        with torch.no_grad():
            context = dit.project_context(texts, audio).select(rows, torch.zeros(3, dtype=torch.long))
            return dit(x, torch.tensor([999, 500, 1]), context=context), context.text

    @pytest.mark.parametrize("compiled", [False, True])
    def test_they_are_plain_ones_to_the_tolerance_rule(self, case, compiled):
        dit, *inputs = case
        truth, _ = self.forward(dit, *inputs)
        eager, _ = self.forward(dit.bfloat16(), *inputs)
        fuse(dit)
        if compiled:
            torch.compiler.reset()  # all tests share the blocks' code, and with it the limit on recompilations
            for block in dit.blocks:
                block.compile(fullgraph=True, backend="aot_eager")
        result, texts = self.forward(dit, *inputs)
        assert all(isinstance(text, TextParts) for text in texts)
        bound = 2 * (eager - truth).abs().max() + 2 * (eager + 0.3 - 0.3 - eager).abs().max()
        assert (result - truth).abs().max() <= bound

    def test_narrow_models_have_one_text_for_all(self, case, monkeypatch):
        monkeypatch.undo()
        dit, *inputs = case
        _, texts = self.forward(fuse(dit.bfloat16()), *inputs)
        assert all(isinstance(text, BiasedKeyValue) for text in texts)

    def test_so_have_projections_in_float32(self, case):
        dit, *inputs = case
        _, texts = self.forward(fuse(dit), *inputs)
        assert all(isinstance(text, BiasedKeyValue) for text in texts)

    def test_and_in_float8(self, case):
        dit, *_ = case
        fuse_float8(dit.bfloat16())
        projected = dit.blocks[0].project_text(torch.zeros(2, 7, dit.config.dim), [3, 6])
        assert isinstance(projected, BiasedKeyValue)
