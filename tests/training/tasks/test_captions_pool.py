from __future__ import annotations

import torch

from training.data.procedural.appearance import ATTRIBUTES
from training.tasks.captions_pool import CaptionPool, class_counts, labelled_captions
from training.tokenizer import train_tokenizer


def test_what_the_labels_say_is_in_the_caption():
    texts, labels = labelled_captions(300, seed=0, split="train")
    colours = list(ATTRIBUTES).index("background_colour")
    for text, label in zip(texts, labels, strict=True):
        for place, (name, values) in enumerate(ATTRIBUTES.items()):
            if 0 <= label[place] < len(values) and name.endswith("_colour"):
                assert values[label[place]] in text.lower()
        if text == "":
            assert (label == [len(values) for values in ATTRIBUTES.values()]).all()
    assert (labels[:, colours] == len(ATTRIBUTES["background_colour"])).any()
    assert (labels == -1).any()


def test_a_word_of_an_unnamed_attribute_is_absent():
    """A caption whose label says nothing of glasses never mentions them, so "not said" is learnable."""
    texts, labels = labelled_captions(300, seed=1, split="train")
    glasses, count = list(ATTRIBUTES).index("glasses"), class_counts()["glasses"]
    for text, label in zip(texts, labels, strict=True):
        if label[glasses] == count - 1:
            assert "round glasses" not in text
            assert "square glasses" not in text


def test_captions_are_cut_to_the_length_with_their_end():
    tokenizer = train_tokenizer(labelled_captions(50, seed=0, split="train")[0], vocab_size=400)
    pool = CaptionPool.fill(tokenizer, 40, 0, "heldout", 12, torch.device("cpu"))
    assert pool.ids_NL.shape == (40, 12)
    assert ((pool.ids_NL == 1).sum(dim=1) == 1).all()
    part = pool.draw(7, torch.Generator().manual_seed(0))
    assert len(part) == len(part.labels_NA) == 7
