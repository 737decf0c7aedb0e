"""Text features: cleaning, padding and UMT5 against the published encoder."""

from __future__ import annotations

import logging

import pytest
import torch

from humo_rt.conditions.text import TextConditioner, clean_prompt, load_tokenizer
from humo_rt.config import TextEncoderConfig
from humo_rt.model.encoders import build_text_encoder
from tests.golden_data import case_ids, load_group
from tests.model.golden_umt5 import golden_umt5

WORDS = ["a", "person", "speaks", "in", "the", "rain"]


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {token: index for index, token in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="module")
def conditioner(tokenizer_file):
    torch.manual_seed(0)
    encoder = build_text_encoder(
        TextEncoderConfig(vocab_size=16, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    )
    return TextConditioner(load_tokenizer(tokenizer_file), encoder, max_length=6)


@pytest.mark.parametrize("case_id", case_ids("t5"))
def test_the_encoder_agrees_with_the_release(case_id):
    tensors = load_group("t5")[1]
    mask, expected = tensors[f"{case_id}.mask"], tensors[f"{case_id}.out"]
    rows = TextConditioner(None, golden_umt5(), max_length=512).encode_ids(tensors[f"{case_id}.ids"], mask)
    for row, length, reference in zip(rows, mask.sum(1).tolist(), expected, strict=True):
        assert row.shape == (length, 64)
        torch.testing.assert_close(row, reference[:length], atol=5e-5, rtol=0)


def test_prompts_are_cleaned_as_wan_does():
    assert clean_prompt("  a \n\t person\u3000speaks ") == "a person speaks"
    assert clean_prompt("rain &amp;amp; snow") == "rain & snow"
    assert clean_prompt("cafÃ©") == "café"


def test_only_the_rows_of_tokens_are_returned(conditioner):
    rows = conditioner.encode(["a person speaks", "", "a  person speaks"])
    assert [tuple(row.shape) for row in rows] == [(4, 8), (1, 8), (4, 8)]
    assert rows[0] is rows[2]
    alone = conditioner.encode(["a person speaks"])[0]
    torch.testing.assert_close(rows[0], alone, atol=1e-6, rtol=0)
    assert conditioner.encode([]) == []


def test_batches_do_not_change_the_features(conditioner):
    prompts = ["a", "a person", "the rain", "person in the rain"]
    for whole, split in zip(conditioner.encode(prompts), conditioner.encode(prompts, batch_size=3), strict=True):
        torch.testing.assert_close(whole, split, atol=1e-6, rtol=0)


def test_every_prompt_cut_short_is_reported(conditioner, caplog):
    with caplog.at_level(logging.WARNING):
        row = conditioner.encode(["a person speaks in the rain a person"])[0]
        conditioner.encode(["a person speaks in the rain a a a a a"])
    assert row.shape[0] == 6
    assert [record.getMessage() for record in caplog.records] == [
        "a prompt of 9 tokens is cut to 6: its end has no effect",
        "a prompt of 12 tokens is cut to 6: its end has no effect",
    ]


def test_an_unreadable_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_tokenizer(tmp_path / "nothing")
    (tmp_path / "tokenizer.json").write_text("not json")
    with pytest.raises(ValueError, match="no readable tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")
