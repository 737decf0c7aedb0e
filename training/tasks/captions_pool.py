"""Captions with what they say, tokenised and kept on the device.

Knows which traits of a person a caption names: the ones it was made from. Values that captions may leave unsaid
("none", "plain") count as not said.

Shape suffixes: N captions, L tokens, A attributes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from humo_rt.conditions.text import PAD
from training.data.procedural.appearance import ATTRIBUTES, background, identity, outfit
from training.data.procedural.captions import anonymous_caption, caption_from_attributes
from training.data.procedural.seeds import stream
from training.english import plain_sentences

UNMARKED = ("none", "plain")
_EMPTY_SHARE, _ANONYMOUS_SHARE, _SENTENCE_SHARE = 0.03, 0.07, 0.15


def class_counts() -> dict[str, int]:
    """Classes of every attribute: its values, and one more for a caption that does not say."""
    return {name: len(values) + 1 for name, values in ATTRIBUTES.items()}


def labelled_captions(count: int, seed: int, split: str) -> tuple[list[str], np.ndarray]:
    """Captions of random subsets of a person's traits, and the class of every attribute: (count, attributes).

    Some are anonymous, some empty, and some are other sentences, which say nothing of a person.
    """
    unsaid = np.array([len(values) for values in ATTRIBUTES.values()])
    others = plain_sentences(int(count * _SENTENCE_SHARE) + 1, seed)
    texts, labels = [], []
    for index in range(count):
        rng = stream("reading", split, seed, index)
        kind = rng.random()
        label = unsaid.copy()
        if kind < _EMPTY_SHARE:
            text = ""
        elif kind < _EMPTY_SHARE + _ANONYMOUS_SHARE:
            text = anonymous_caption(rng)
        elif kind < _EMPTY_SHARE + _ANONYMOUS_SHARE + _SENTENCE_SHARE:
            text = others[index % len(others)]
            label[:] = -1  # such a sentence may well mention a red coat
        else:
            said = _traits(split, rng)
            text = caption_from_attributes(said, rng)
            for place, (name, values) in enumerate(ATTRIBUTES.items()):
                if said.get(name, UNMARKED[0]) not in UNMARKED:
                    label[place] = values.index(said[name])
        texts.append(_typed(text, rng))
        labels.append(label)
    return texts, np.stack(labels)


def _traits(split: str, rng: np.random.Generator) -> dict[str, str]:
    names = identity(int(rng.integers(1 << 30)), split).names | outfit(rng).names | background(rng).names
    keep = rng.uniform(0.2, 1.1)
    return {name: value for name, value in names.items() if rng.random() < keep}


def _typed(text: str, rng: np.random.Generator) -> str:
    """As people type: sometimes without the full stop."""
    return text.removesuffix(".") if rng.random() < 0.3 else text


@dataclass(frozen=True, kw_only=True)
class CaptionPool:
    """``ids_NL`` int64, zero behind the end token; ``labels_NA`` classes, -1 where nothing is known."""

    ids_NL: Tensor
    labels_NA: Tensor

    def __len__(self) -> int:
        return self.ids_NL.shape[0]

    @classmethod
    def fill(cls, tokenizer, count: int, seed: int, split: str, length: int, device: torch.device) -> CaptionPool:
        """Make and tokenise ``count`` captions, cut to ``length`` tokens with the end token kept."""
        texts, labels = labelled_captions(count, seed, split)
        tokenizer.enable_truncation(length)
        tokenizer.enable_padding(pad_id=0, pad_token=PAD)  # to the longest of all, which is below the limit
        ids = np.array([encoding.ids for encoding in tokenizer.encode_batch(texts)])
        return cls(ids_NL=torch.from_numpy(ids).to(device), labels_NA=torch.from_numpy(labels).to(device))

    def draw(self, count: int, generator: torch.Generator) -> CaptionPool:
        """A random part."""
        rows = torch.randint(len(self), (count,), generator=generator, device=self.ids_NL.device)
        return CaptionPool(ids_NL=self.ids_NL[rows], labels_NA=self.labels_NA[rows])
