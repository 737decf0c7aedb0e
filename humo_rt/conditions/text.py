"""Prompts to text features: cleaning, tokenising and the UMT5 encoder.

Knows how Wan cleans and pads prompts. Does not build the encoder or load its weights.

Shape suffixes: B prompts, L tokens, D width of the encoder.
"""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"


def clean_prompt(text: str) -> str:
    """Repair broken encodings, resolve HTML entities (twice: they come nested) and collapse white space."""
    import ftfy

    resolved = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", resolved).strip()


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Read a tokenizer from a Hugging Face folder (``google/umt5-xxl``) or from one ``tokenizer.json``.

    ``ValueError`` when the path holds none, or when it has no padding or end token.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    path = Path(path)
    if not path.exists():
        raise ValueError(f"tokenizer {str(path)!r} does not exist: give a folder or a tokenizer.json")
    try:
        if path.is_dir():
            tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
        else:
            tokenizer = PreTrainedTokenizerFast(
                tokenizer_file=str(path), pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN, padding_side="right"
            )
    except Exception as error:  # the tokenizers library raises bare Exception for a file it cannot parse
        raise ValueError(
            f"{str(path)!r} holds no readable tokenizer ({error}): give a folder or a tokenizer.json"
        ) from error
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (tokenizer.pad_token, tokenizer.eos_token) if token not in vocabulary]
    if missing:
        raise ValueError(f"tokenizer {str(path)!r} does not know {', '.join(map(str, missing))}: use a T5 tokenizer")
    return tokenizer


class TextConditioner:
    """Prompts to rows of UMT5 features.

    ``tokenizer``: a transformers tokenizer that appends its end token; ``encoder``: a transformers
    ``UMT5EncoderModel``; ``max_length``: tokens kept, end token included.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encoder: nn.Module, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.max_length = max_length

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], batch_size: int = 8) -> list[Tensor]:
        """Features of every prompt: (L_i, D) in the encoder's precision, on its device, without padding rows.

        Equal prompts are encoded once and share their tensor.
        """
        cleaned = [clean_prompt(prompt) for prompt in prompts]
        unique = list(dict.fromkeys(cleaned))
        self._warn_if_truncated(unique)
        features: dict[str, Tensor] = {}
        for begin in range(0, len(unique), batch_size):
            batch = unique[begin : begin + batch_size]
            features.update(zip(batch, self._encode_batch(batch), strict=True))
        return [features[prompt] for prompt in cleaned]

    def _encode_batch(self, prompts: list[str]) -> list[Tensor]:
        device = next(self.encoder.parameters()).device
        tokens = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        return self.encode_ids(tokens.input_ids.to(device), tokens.attention_mask.to(device))

    @torch.no_grad()
    def encode_ids(self, ids_BL: Tensor, mask_BL: Tensor) -> list[Tensor]:
        """Features of tokenised prompts, padding (mask 0) on the right: the first ``mask.sum()`` rows of each."""
        hidden_BLD = self.encoder(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
        return [hidden[:length] for hidden, length in zip(hidden_BLD, mask_BL.sum(dim=1).tolist(), strict=True)]

    def _warn_if_truncated(self, prompts: list[str]) -> None:
        if not prompts:
            return
        longest = max(len(ids) for ids in self.tokenizer(prompts, verbose=False).input_ids)
        if longest > self.max_length:
            logger.warning("a prompt of %d tokens is cut to %d: its end has no effect", longest, self.max_length)
