"""Plain English sentences from a small grammar.

Held-out sentences are chosen by the text itself, so no seed can put one into both splits. Knows nothing about sound.
"""

from __future__ import annotations

import numpy as np

from training.data.procedural.seeds import bucket

_WORDS: dict[str, str] = {
    "who": "I|you|we|they|my mother|your brother|the doctor|our teacher|the baker|his boss|her best friend|the driver|"
    "a farmer|the captain|my uncle Bob|the painter|every student|a small boy|the old woman|the poet|your neighbour",
    "did": "saw|bought|found|built|moved|opened|painted|carried|wanted|forgot|remembered|followed|watched|heard|washed|"
    "borrowed|mapped|pushed|pulled|wrapped|measured|promised|cooked|packed|brought|fixed|described|photographed",
    "will": "make|buy|find|build|open|bring|bake|watch|visit|move|wash|keep|pay for|look after|talk about|wave at|"
    "think about|dream of|prepare|improve|share|shape|protect|borrow|wrap",
    "a": "big|small|warm|cold|purple|beautiful|cheap|brave|famous|empty|wooden|heavy|bright|noisy|peaceful|pale|smooth|"
    "broken|hungry|simple|gentle|bumpy|marvellous|wide|narrow|fresh|blue|brown|yellow|white|modern|happy",
    "thing": "boat|map|window|apple|bottle|picture|bridge|piano|mountain|paper boat|umbrella|vegetable|bicycle|garden|"
    "camera|puzzle|table|house|music box|blanket|pumpkin|movie|poem|kettle|violin|lamp|potato|magazine|banana|"
    "envelope|chair|mirror|button|balloon|museum|basement|volcano|elephant|butterfly|watch|thumb",
    "where": "by the river|in the morning|near the old bridge|at home|under the bed|above the shop|in the village|"
    "behind the wall|on Monday|for five months|without me|before breakfast|after a long walk|in the museum|"
    "on top of the hill|beside the pond|from the very beginning|at half past four|over the rainbow|in public",
    "how": "slowly|quickly|maybe|probably|very softly|happily|all at once|once more|perhaps|of course|obviously|"
    "by mistake|with both hands|every now and then|as far as I know|believe me|to be honest",
    "say": "Good morning|Welcome back|Oh my|Wow|Hello everybody|Well|Listen|Thank you very much|Excuse me|Pardon me|"
    "Bravo|Goodbye for now|No way|Maybe|Of course|Above all|By the way|Remember this|Please wait|Amazing",
    "n": "two|three|four|five|seven|eight|eleven|twelve|fifteen|forty|ninety|a hundred|a million|a few|many|both|some",
}
_CHOICES = {key: words.split("|") for key, words in _WORDS.items()}

_TEMPLATES = (
    "{who} {did} the {a} {thing} {where}.",
    "{say}, {who} {did} a {a} {thing}.",
    "{how}, {who} {did} {n} {a} {thing}s {where}.",
    "Will {who} {will} the {thing} {where}?",
    "{who} will {will} the {a} {thing}, {how}.",
    "Why would {who} {will} {n} {thing}s?",
    "{say}! The {thing} is {a}.",
    "The {a} {thing} {where} was {a} and {a}.",
    "{say}. We {did} the {thing}, and {who} {did} the {thing}.",
    "Please {will} my {a} {thing} {where}.",
    "I am {how} {a}, but the {thing} is {a}.",
    "How many {thing}s did {who} {will} {where}?",
    "My {thing} and your {thing} are both {a}.",
    "{say}, {say}!",
    "{n} {thing}s, {n} {thing}s, and one {a} {thing}.",
    "What a {a} {thing}!",
    "There is a {thing} {where}, {how}.",
)
HELDOUT_BUCKETS = 10


def is_heldout(text: str) -> bool:
    """Whether a sentence belongs to the held-out tenth."""
    return bucket(text.lower(), HELDOUT_BUCKETS) == 0


def sentence(rng: np.random.Generator, split: str) -> str:
    """Draw one sentence of the given split, ``"train"`` or ``"heldout"``."""
    while True:
        text = _TEMPLATES[rng.integers(len(_TEMPLATES))]
        while "{" in text:
            key = text[text.index("{") + 1 : text.index("}")]
            text = text.replace("{" + key + "}", _CHOICES[key][rng.integers(len(_CHOICES[key]))], 1)
        text = text[0].upper() + text[1:]
        if is_heldout(text) == (split == "heldout"):
            return text
