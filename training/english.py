"""Common English words and plain sentences made of them, for a tokenizer that should not stumble over a prompt.

Captions of procedural people use three hundred words; people who type prompts use more. Knows words, not meanings.
"""

from __future__ import annotations

from training.data.procedural.seeds import stream
from training.data.procedural.sentences import sentence

_PEOPLE = """person people woman man girl boy child adult teenager grandmother grandfather mother father sister brother
friend teacher doctor nurse singer actor actress reporter journalist presenter scientist astronaut pilot soldier
student worker farmer chef waiter artist writer king queen president speaker host guest team family couple crowd"""
_LOOKS = """young old middle-aged elderly tall short slim strong beautiful handsome pretty cute serious happy sad angry
calm tired excited surprised smiling laughing crying whispering shouting singing talking speaking reading walking
running sitting standing dancing waving nodding looking turning pointing holding wearing dressed curly straight wavy
long short blonde brown black red grey white silver ginger dark light bald beard moustache freckles wrinkles makeup
lipstick glasses sunglasses earrings necklace hat cap helmet scarf hood"""
_CLOTHES = """shirt t-shirt blouse sweater jumper hoodie jacket coat suit tie dress skirt trousers jeans uniform vest
cardigan apron gown collar sleeve button pocket striped checked plain dotted floral leather cotton silk wool denim"""
_COLOURS = """red orange yellow green blue purple pink brown black white grey gray beige gold silver turquoise navy
crimson violet cream dark light bright pale deep soft"""
_PLACES = """room office kitchen studio street city park garden forest beach sea mountain river lake bridge house
window door wall floor table chair sofa desk bookshelf lamp curtain screen stage theatre museum library school hospital
station train car boat plane restaurant cafe bar shop market church castle field desert snow rain sun sky cloud night
day morning evening sunset summer winter spring autumn background foreground indoors outdoors"""
_FILM = """camera close-up portrait video film movie scene shot frame view angle focus blur light lighting shadow
contrast colour cinematic realistic natural professional documentary interview news vlog slow fast still moving zoom
pan handheld high quality detailed sharp soft warm cold background bokeh style animation cartoon drawing painting"""
_VERBS = """is are was were be being has have had do does did can could will would should may might must says tells asks
answers explains describes shows opens closes moves stays turns raises lowers takes gives makes puts brings looks sees
hears feels thinks knows wants likes loves needs tries starts stops keeps lets helps works plays lives comes goes"""
_GLUE = """the a an this that these those his her its their my your our one two three four five six seven eight nine
ten some any many few all both each every other another same different first last next of in on at by for with without
about against between into through during before after above below to from up down out off over under again then
once here there when where why how what which who whose while because if though although until since and or but nor so
not no yes very more most less least too also just only even still already always never often sometimes usually slowly
quickly quietly loudly softly gently directly slightly behind beside near next front left right top bottom centre
middle inside outside around along across toward towards he she it they we you i him them us me himself herself"""
_FORMS = (
    "the {look} {person} {verb} in the {place}",
    "a {film} of a {look} {person} wearing a {colour} {clothes}",
    "{person} with {look} hair and a {colour} {clothes}, {film}",
    "{look}, {colour}, {film}, {place}",
    "there is a {colour} {place} behind the {look} {person}",
    "{glue} {person} {verb} {glue} {place} {glue} {look} {glue} {film}",
)
_KINDS = {
    "person": _PEOPLE.split(), "look": _LOOKS.split(), "clothes": _CLOTHES.split(), "colour": _COLOURS.split(),
    "place": _PLACES.split(), "film": _FILM.split(), "verb": _VERBS.split(), "glue": _GLUE.split(),
}  # fmt: skip


def plain_sentences(count: int, seed: int) -> list[str]:
    """``count`` sentences, a function of ``seed``: half like prompts, half ordinary; grammar is not promised."""
    made = []
    for index in range(count):
        rng = stream("english", seed, index)
        if index % 2:
            made.append(sentence(rng, "train"))
            continue
        text = _FORMS[rng.integers(len(_FORMS))]
        while "{" in text:
            kind = text[text.index("{") + 1 : text.index("}")]
            text = text.replace("{" + kind + "}", str(rng.choice(_KINDS[kind])), 1)
        made.append(text[0].upper() + text[1:] + ".")
    return made


def all_words() -> list[str]:
    """Every word once, in a fixed order."""
    return list(dict.fromkeys(word for words in _KINDS.values() for word in words))
