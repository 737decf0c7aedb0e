"""Words for a picture: captions that name what is visible, and captions that name nothing.

Knows the attribute names of ``appearance.ATTRIBUTES`` and English. A full caption names a random subset of the traits
in a random order and wording; ``caption_from_attributes`` names exactly what it is given.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from training.data.procedural.appearance import background, identity, outfit
from training.data.procedural.seeds import stream

ANONYMOUS_CAPTIONS = (
    "A person is talking to the camera.",
    "A person speaks to the camera.",
    "Someone is talking.",
    "Someone looks into the camera and speaks.",
    "A close-up of a person talking.",
    "A video of a person who is speaking.",
    "The person in the picture is talking to the viewer.",
    "A talking head speaks to the camera.",
    "Somebody talks in front of the camera.",
    "Close-up of someone speaking to the viewer.",
)
_GENDER = {"woman": ("woman", "lady", "female person"), "man": ("man", "guy", "male person")}
_PRONOUN = {"woman": "She", "man": "He", None: "The person"}
_ACTIONS = (
    "is talking to the camera", "speaks to the camera", "is speaking", "talks to the viewer",
    "looks into the camera and talks", "is talking",
)  # fmt: skip
_OPENINGS = ("{person} {action}", "a close-up of {person} who {action}", "a video of {person} who {action}")
_STYLES = {
    "short": ("short {c} hair", "{c} hair, cut short", "neat short {c} hair"),
    "curly": ("curly {c} hair", "{c} curls", "curly hair that is {c}"),
    "bob": ("a {c} bob", "{c} hair in a bob with a fringe", "{c} bob hair"),
    "long": ("long {c} hair", "{c} long hair", "long straight {c} hair"),
    "bun": ("{c} hair in a bun", "a {c} bun", "{c} hair tied up in a bun"),
    "afro": ("a {c} afro", "a big {c} afro", "{c} afro hair"),
    "mohawk": ("a {c} mohawk", "{c} hair in a mohawk", "a {c} mohawk hairstyle"),
}
_BALD = ("no hair", "a bald head", "a shaved bald head")
_BEARDS = {
    "none": ("no beard", "a clean-shaven face"),
    "moustache": ("a moustache", "a {c} moustache"),
    "full": ("a full beard", "a {c} full beard", "a beard"),
}
_GLASSES = {
    "none": ("no glasses",),
    "round": ("round glasses", "glasses with round frames"),
    "square": ("square glasses", "glasses with square frames"),
}
_GARMENTS = ("top", "shirt", "sweater", "pullover")
_WALLS = {
    "plain": ("a plain {c} background", "a {c} wall", "a plain {c} wall"),
    "gradient": ("a {c} gradient background", "a {c} background that fades to dark"),
    "striped": ("a striped {c} background", "a {c} wall with stripes", "a {c} striped background"),
    "dotted": ("a dotted {c} background", "a {c} wall with dots", "a {c} background with polka dots"),
    "checked": ("a checked {c} background", "a {c} wall with checks", "a {c} checkerboard background"),
    "window": ("a {c} wall with a window", "a window in a {c} wall", "a {c} background with a window"),
}


def caption(attributes: Mapping[str, str], rng: np.random.Generator) -> str:
    """A caption of a random subset of the attributes; one in four names everything."""
    if rng.random() < 0.25:
        return caption_from_attributes(attributes, rng)
    keep = rng.uniform(0.35, 0.95)
    return caption_from_attributes({k: v for k, v in attributes.items() if rng.random() < keep}, rng)


def anonymous_caption(rng: np.random.Generator) -> str:
    """A caption that says nothing of the person, the clothes or the place."""
    return str(rng.choice(ANONYMOUS_CAPTIONS))


def caption_from_attributes(attributes: Mapping[str, str], rng: np.random.Generator | None = None) -> str:
    """A caption that names all of ``attributes``, a mapping of names to values in ``ATTRIBUTES``.

    Without ``rng`` it has the plainest wording. Absent glasses and beards are left out half of the time.
    """
    gender = attributes.get("gender")
    noun = _pick(_GENDER[gender], rng) if gender else _pick(("person", "speaker"), rng)
    traits = [text for text in (_hair(attributes, rng), _beard(attributes, rng), _glasses(attributes, rng)) if text]
    garment, wall = _garment(attributes, rng), _wall(attributes, rng)
    if rng is not None:
        traits = [traits[i] for i in rng.permutation(len(traits))]
    person = f"a {noun}" + (f" with {_join(traits)}" if traits else "")
    wearing = f"wearing {garment}" if garment else ""
    place = _pick(("in front of {w}", "against {w}", "before {w}"), rng).format(w=wall) if wall else ""
    action = _pick(_ACTIONS, rng)
    if rng is not None and rng.random() < 0.4:
        return _in_sentences(gender, person, garment, wall, action, rng)
    if place and rng is not None and rng.random() < 0.25:
        return _finish(f"{place}, {_words(person, wearing, action)}")
    sentence = _pick(_OPENINGS, rng).format(person=_words(person, wearing), action=action)
    return _finish(_words(sentence, place))


def caption_corpus(num_captions: int, seed: int, *, split: str = "train") -> list[str]:
    """Captions of random people and places, one in ten anonymous: text for a tokenizer and a text encoder."""
    corpus = []
    for index in range(num_captions):
        rng = stream("corpus", split, seed, index)
        names = identity(int(rng.integers(1 << 30)), split).names | outfit(rng).names | background(rng).names
        corpus.append(anonymous_caption(rng) if rng.random() < 0.1 else caption(names, rng))
    return corpus


def _in_sentences(gender, person: str, garment: str, wall: str, action: str, rng: np.random.Generator) -> str:
    """Several short sentences, scene first or last."""
    pronoun = _PRONOUN[gender]
    parts = [f"{person} {action}"]
    if garment:
        parts.append(f"{pronoun} {_pick(('wears', 'is wearing', 'is dressed in'), rng)} {garment}")
    if wall:
        scene = _pick(("the background is {w}", "behind the person is {w}", "there is {w} behind"), rng).format(w=wall)
        parts.insert(0 if rng.random() < 0.3 else len(parts), scene)
    return " ".join(_finish(part) for part in parts)


def _hair(attributes: Mapping[str, str], rng) -> str:
    style, colour = attributes.get("hair_style"), attributes.get("hair_colour")
    if style == "bald":
        return _pick(_BALD[::-1] if rng is None else _BALD, rng)
    colour = "" if colour in (None, "none") else colour
    if style is None:
        return f"{colour} hair" if colour else ""
    return _squeeze(_pick(_STYLES[style] if colour else _STYLES[style][:1], rng).format(c=colour))


def _beard(attributes: Mapping[str, str], rng) -> str:
    beard = attributes.get("beard")
    if beard is None or (beard == "none" and (attributes.get("gender") != "man" or _coin(rng))):
        return ""
    colour = attributes.get("hair_colour") or ""
    return _squeeze(_pick(_BEARDS[beard], rng).format(c="" if colour == "none" else colour))


def _glasses(attributes: Mapping[str, str], rng) -> str:
    glasses = attributes.get("glasses")
    if glasses is None or (glasses == "none" and _coin(rng)):
        return ""
    return _pick(_GLASSES[glasses], rng)


def _garment(attributes: Mapping[str, str], rng) -> str:
    colour, pattern = attributes.get("clothes_colour"), attributes.get("clothes_pattern")
    if colour is None and pattern in (None, "plain"):
        return ""
    if pattern is None or (pattern == "plain" and (rng is None or rng.random() < 0.7)):
        pattern = ""
    words = _words(*((pattern, colour) if rng is None or rng.random() < 0.5 else (colour, pattern)), "")
    return f"{_article(words)} {words} {_pick(_GARMENTS, rng)}"


def _wall(attributes: Mapping[str, str], rng) -> str:
    colour, pattern = attributes.get("background_colour"), attributes.get("background_pattern")
    if colour is None and pattern in (None, "plain"):
        return ""
    if pattern is None:
        return f"{_article(colour)} {colour} background"
    return _squeeze(_pick(_WALLS[pattern], rng).format(c=colour or ""))


def _pick(options, rng: np.random.Generator | None) -> str:
    return options[0] if rng is None else options[int(rng.integers(len(options)))]


def _coin(rng: np.random.Generator | None) -> bool:
    return rng is None or rng.random() < 0.5


def _article(word: str) -> str:
    return "an" if word[:1] in tuple("aeio") else "a"


def _squeeze(text: str) -> str:
    """Remove the gap of an unnamed colour and correct the article before a vowel."""
    words = text.split()
    following = [*words[1:], ""]
    return " ".join(_article(after) if word == "a" else word for word, after in zip(words, following, strict=True))


def _words(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _finish(text: str) -> str:
    return text[0].upper() + text[1:] + "."
