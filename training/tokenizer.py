"""Train the nano model's tokenizer: byte-level BPE, so that any Unicode text has tokens.

Knows the special tokens of T5 (padding 0, end 1, unknown 2, which bytes never need and training uses as the mask) and
where the text comes from. ``python -m training.tokenizer tokenizer.json`` writes the file the runtime loads.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from humo_rt.conditions.text import EOS, PAD, UNKNOWN
from humo_rt.config import preset
from training.english import all_words, plain_sentences

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = (PAD, EOS, UNKNOWN)
MASK_ID = SPECIAL_TOKENS.index(UNKNOWN)
_CAPTIONS, _SENTENCES, _WORD_REPEATS = 8_000, 4_000, 20


def tokenizer_corpus(seed: int) -> list[str]:
    """Captions, plain sentences, and common words often enough to become tokens of their own."""
    from training.data.procedural import caption_corpus

    words = [" ".join(all_words())] * _WORD_REPEATS
    return caption_corpus(_CAPTIONS, seed) + plain_sentences(_SENTENCES, seed) + words


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE of at most ``vocab_size`` tokens, lower case, the end token appended to every text.

    ``ValueError`` when the bytes and the special tokens alone would not fit.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + len(SPECIAL_TOKENS):
        raise ValueError(
            f"a vocabulary of {vocab_size} does not hold all bytes: use at least {len(alphabet) + len(SPECIAL_TOKENS)}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    end = (EOS, SPECIAL_TOKENS.index(EOS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[end]
    )
    return tokenizer


def main() -> None:
    """Train on the corpus and write one file."""
    parser = argparse.ArgumentParser(description="train the nano model's tokenizer")
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vocab-size", type=int, default=preset("nano").text_encoder.vocab_size)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tokenizer = train_tokenizer(tokenizer_corpus(arguments.seed), arguments.vocab_size)
    tokenizer.save(str(arguments.path))
    logger.info("%s: %d tokens", arguments.path, tokenizer.get_vocab_size())


if __name__ == "__main__":
    main()
