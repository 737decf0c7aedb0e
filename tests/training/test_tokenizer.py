from __future__ import annotations

import pytest

from humo_rt.conditions.text import load_tokenizer
from training.english import all_words, plain_sentences
from training.tokenizer import MASK_ID, SPECIAL_TOKENS, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(plain_sentences(200, seed=0), vocab_size=600)


def test_special_tokens_are_numbered_as_in_t5(tokenizer):
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2]
    assert MASK_ID == 2


@pytest.mark.parametrize("text", ["a woman", "", "你好 🙂", "Ünïcödé ﬁve", "\u0000\n\t", "a" * 300])
def test_any_text_has_tokens_and_ends_once(tokenizer, text):
    ids = tokenizer.encode(text).ids
    assert ids[-1] == 1
    assert ids.count(1) == 1
    assert MASK_ID not in ids


def test_text_comes_back(tokenizer):
    text = "a woman with émigré 中文 hair."
    assert tokenizer.decode(tokenizer.encode(text).ids).strip() == text


def test_case_does_not_matter(tokenizer):
    assert tokenizer.encode("A Woman Speaks").ids == tokenizer.encode("a woman speaks").ids


def test_the_runtime_reads_the_file(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    encoded = loaded("a woman", padding="max_length", truncation=True, max_length=8)
    expected = tokenizer.encode("a woman").ids
    assert encoded.input_ids == expected + [0] * (8 - len(expected))
    assert sum(encoded.attention_mask) == len(expected)
    assert loaded("a woman speaks " * 20, truncation=True, max_length=8).input_ids[-1] == 1


def test_a_vocabulary_must_hold_all_bytes():
    with pytest.raises(ValueError, match="at least 259"):
        train_tokenizer(["text"], vocab_size=200)


def test_sentences_are_a_function_of_the_seed():
    assert plain_sentences(20, seed=1) == plain_sentences(20, seed=1)
    assert plain_sentences(20, seed=1) != plain_sentences(20, seed=2)
    assert not any("{" in text for text in plain_sentences(100, seed=3))
    assert len(all_words()) == len(set(all_words())) > 400
