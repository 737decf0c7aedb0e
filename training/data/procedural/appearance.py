"""Who is in the picture: identities, clothes and backgrounds as plain numbers and names.

A person is a function of an identity number alone; clothes and background belong to a shot. The combination of
visible traits decides whether an identity is held out, so no combination appears in both splits. Draws nothing.

Lengths are in head units: half the height of the head without hair. Colours are RGB in 0..1.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from training.data.procedural.seeds import bucket, stream

HAIR_COLOURS = {
    "black": (0.09, 0.08, 0.10),
    "brown": (0.38, 0.22, 0.11),
    "blonde": (0.93, 0.77, 0.40),
    "red": (0.75, 0.29, 0.08),
    "grey": (0.68, 0.69, 0.72),
}
CLOTHES_COLOURS = {
    "red": (0.80, 0.13, 0.15),
    "orange": (0.95, 0.53, 0.12),
    "yellow": (0.96, 0.84, 0.20),
    "green": (0.13, 0.55, 0.25),
    "blue": (0.13, 0.32, 0.75),
    "purple": (0.48, 0.20, 0.62),
    "white": (0.94, 0.94, 0.95),
    "black": (0.11, 0.11, 0.13),
}
BACKGROUND_COLOURS = {
    "pink": (0.96, 0.67, 0.76),
    "orange": (0.95, 0.66, 0.35),
    "yellow": (0.96, 0.87, 0.50),
    "green": (0.50, 0.74, 0.50),
    "blue": (0.46, 0.66, 0.90),
    "purple": (0.66, 0.55, 0.84),
    "grey": (0.58, 0.60, 0.62),
    "white": (0.95, 0.95, 0.93),
}
ATTRIBUTES: dict[str, list[str]] = {
    "gender": ["woman", "man"],
    "hair_style": ["bald", "short", "curly", "bob", "long", "bun", "afro", "mohawk"],
    "hair_colour": ["none", *HAIR_COLOURS],
    "glasses": ["none", "round", "square"],
    "beard": ["none", "moustache", "full"],
    "clothes_colour": list(CLOTHES_COLOURS),
    "clothes_pattern": ["plain", "striped", "checked"],
    "background_colour": list(BACKGROUND_COLOURS),
    "background_pattern": ["plain", "gradient", "striped", "dotted", "checked", "window"],
}
IDENTITY_TRAITS = ("gender", "hair_style", "hair_colour", "glasses", "beard")
HELDOUT_BUCKETS = 8

_SKIN_TONES = (
    (0.99, 0.87, 0.77), (0.96, 0.80, 0.67), (0.91, 0.71, 0.55), (0.84, 0.62, 0.44),
    (0.72, 0.50, 0.34), (0.58, 0.38, 0.25), (0.45, 0.29, 0.20), (0.35, 0.22, 0.16),
)  # fmt: skip
_EYE_COLOURS = (
    (0.30, 0.17, 0.08), (0.22, 0.12, 0.06), (0.45, 0.30, 0.12),
    (0.20, 0.42, 0.66), (0.28, 0.50, 0.30), (0.42, 0.50, 0.56),
)  # fmt: skip
_STYLE_WEIGHTS = {
    "woman": (0.04, 0.13, 0.13, 0.2, 0.22, 0.15, 0.1, 0.03),
    "man": (0.18, 0.3, 0.17, 0.03, 0.08, 0.05, 0.1, 0.09),
}
# Volume on top and at the sides, hairline height and curve, strand length at the sides, back: width, end and bumps;
# tuft: centre, half width, half height, drawn in front.
_STYLES: dict[str, dict[str, float]] = {
    "bald": {"hair_on": 0.0},
    "short": {"hair_top": 0.13, "hair_side": 0.05, "hair_line": -0.60, "hair_curve": 0.85, "hair_strand": 0.0},
    "curly": {"hair_top": 0.20, "hair_side": 0.15, "hair_line": -0.52, "hair_curve": 0.55, "hair_strand": 0.18,
              "hair_bump": 0.045, "hair_round": 2.2},
    "bob": {"hair_top": 0.15, "hair_side": 0.14, "hair_line": -0.42, "hair_curve": 0.12, "hair_strand": 0.62,
            "back_width": 0.93, "back_end": 0.74, "ears": 0.0},
    "long": {"hair_top": 0.13, "hair_side": 0.15, "hair_line": -0.62, "hair_curve": 0.62, "hair_strand": 1.5,
             "back_width": 0.98, "back_end": 2.2, "ears": 0.0},
    "bun": {"hair_top": 0.09, "hair_side": 0.04, "hair_line": -0.64, "hair_curve": 0.72, "hair_strand": -0.05,
            "tuft_y": -1.16, "tuft_width": 0.32, "tuft_height": 0.27},
    "afro": {"hair_top": 0.30, "hair_side": 0.30, "hair_line": -0.56, "hair_curve": 0.45, "hair_strand": 0.12,
             "hair_bump": 0.022, "hair_round": 1.3, "back_round": 1.10, "ears": 0.0},
    "mohawk": {"hair_on": 0.0, "tuft_y": -0.96, "tuft_width": 0.20, "tuft_height": 0.42, "tuft_front": 1.0},
}  # fmt: skip
_STYLE_DEFAULTS = {
    "hair_on": 1.0, "hair_top": 0.1, "hair_side": 0.05, "hair_line": -0.6, "hair_curve": 0.6, "hair_strand": 0.0,
    "hair_bump": 0.0, "hair_round": 0.0, "back_width": 0.0, "back_end": 0.0, "back_round": 0.0,
    "tuft_y": -1.0, "tuft_width": 0.0, "tuft_height": 0.0, "tuft_front": 0.0, "ears": 1.0,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Look:
    """Named traits and the numbers that draw them: floats and RGB triples by parameter name."""

    names: dict[str, str]
    numbers: dict[str, float | np.ndarray]


@functools.lru_cache(maxsize=8192)
def identity(number: int, split: str) -> Look:
    """The person with this number; the two splits share neither numbers nor combinations of traits."""
    rng = stream("identity", split, number)
    names = _traits(rng)
    while is_heldout(names) != (split == "heldout"):
        names = _traits(rng)
    return Look(names=names, numbers=_face(rng, names) | _features(rng, names) | _hair(rng, names))


def is_heldout(names: dict[str, str]) -> bool:
    """Whether this combination of traits belongs to the held-out split."""
    return bucket(" ".join(names[trait] for trait in IDENTITY_TRAITS), HELDOUT_BUCKETS) == 0


def outfit(rng: np.random.Generator) -> Look:
    """Clothes for one shot."""
    colour = str(rng.choice(ATTRIBUTES["clothes_colour"]))
    pattern = str(rng.choice(ATTRIBUTES["clothes_pattern"], p=(0.6, 0.22, 0.18)))
    base = _tinted(rng, CLOTHES_COLOURS[colour], 0.035)
    accent = base * 0.62 if base.mean() > 0.55 else base + (1.0 - base) * 0.42
    numbers = {
        "cloth": base,
        "cloth_accent": accent,
        "cloth_striped": float(pattern == "striped"),
        "cloth_checked": float(pattern == "checked"),
        "cloth_period": rng.uniform(0.20, 0.28),
        "neckline_depth": rng.uniform(0.14, 0.24),
        "neckline_v": float(rng.random() < 0.35),
        "collar": float(rng.random() < 0.3),
        "shoulder_width": rng.uniform(1.25, 1.5),
        "shoulder_slope": rng.uniform(0.28, 0.42),
    }
    return Look(names={"clothes_colour": colour, "clothes_pattern": pattern}, numbers=numbers)


def background(rng: np.random.Generator) -> Look:
    """What is behind the person in one shot."""
    colour = str(rng.choice(ATTRIBUTES["background_colour"]))
    pattern = str(rng.choice(ATTRIBUTES["background_pattern"]))
    base = _tinted(rng, BACKGROUND_COLOURS[colour], 0.03)
    numbers = {
        "wall": base,
        "wall_accent": base + (1.0 - base) * 0.5 if colour != "white" else base * 0.80,
        "wall_angle": rng.uniform(-0.5, 0.5),
    }
    numbers |= {"wall_period": rng.uniform(0.30, 0.42), "wall_side": float(rng.choice((-1.0, 1.0)))}
    for name in ATTRIBUTES["background_pattern"][1:]:
        numbers[f"wall_{name}"] = float(pattern == name)
    return Look(names={"background_colour": colour, "background_pattern": pattern}, numbers=numbers)


def _traits(rng: np.random.Generator) -> dict[str, str]:
    gender = str(rng.choice(ATTRIBUTES["gender"]))
    style = str(rng.choice(ATTRIBUTES["hair_style"], p=_STYLE_WEIGHTS[gender]))
    colour = "none" if style == "bald" else str(rng.choice(list(HAIR_COLOURS)))
    beard = "none" if gender == "woman" else str(rng.choice(ATTRIBUTES["beard"], p=(0.46, 0.22, 0.32)))
    glasses = str(rng.choice(ATTRIBUTES["glasses"], p=(0.6, 0.2, 0.2)))
    return {"gender": gender, "hair_style": style, "hair_colour": colour, "glasses": glasses, "beard": beard}


def _face(rng: np.random.Generator, names: dict[str, str]) -> dict[str, float | np.ndarray]:
    """Skin and the outline of the head."""
    tone = rng.uniform(0, len(_SKIN_TONES) - 1)
    low = int(min(tone, len(_SKIN_TONES) - 2))
    skin = np.array(_SKIN_TONES[low]) * (1 - tone + low) + np.array(_SKIN_TONES[low + 1]) * (tone - low)
    man = names["gender"] == "man"
    return {
        "skin": np.clip(skin * rng.uniform(0.97, 1.03) + rng.normal(0, 0.012, 3), 0, 1),
        "head_width": rng.uniform(0.70, 0.80) + 0.02 * man,
        "jaw_taper": rng.uniform(0.02, 0.14) if man else rng.uniform(0.12, 0.26),
        "jaw_square": rng.uniform(0.35, 0.75) if man else rng.uniform(0.0, 0.35),
        "neck_width": rng.uniform(0.40, 0.48) if man else rng.uniform(0.30, 0.37),
        "ear_size": rng.uniform(0.13, 0.17),
        "blush": rng.uniform(0.0, 0.35) if man else rng.uniform(0.25, 0.8),
        "freckles": float(rng.random() < 0.15),
        "wrinkles": float(rng.random() < 0.2) * rng.uniform(0.5, 1.0),
        "man": float(man),
    }


def _features(rng: np.random.Generator, names: dict[str, str]) -> dict[str, float | np.ndarray]:
    """Eyes, brows, nose, mouth, glasses and beard."""
    man = names["gender"] == "man"
    lip_red = rng.uniform(0.12, 0.3) if man else rng.uniform(0.45, 0.85)
    return {
        "eye_y": rng.uniform(-0.13, -0.07),
        "eye_spacing": rng.uniform(0.29, 0.335),
        "eye_width": rng.uniform(0.145, 0.17),
        "eye_height": rng.uniform(0.07, 0.085) + 0.012 * (not man),
        "eye_slant": rng.uniform(-0.10, 0.14),
        "iris": _tinted(rng, _EYE_COLOURS[rng.integers(len(_EYE_COLOURS))], 0.03),
        "lashes": rng.uniform(0.0, 0.25) if man else rng.uniform(0.8, 1.0),
        "brow_gap": rng.uniform(0.17, 0.21),
        "brow_thickness": rng.uniform(0.035, 0.05) if man else rng.uniform(0.02, 0.032),
        "brow_arch": rng.uniform(0.1, 0.5) if man else rng.uniform(0.5, 1.0),
        "nose_width": rng.uniform(0.11, 0.17) + 0.02 * man,
        "nose_y": rng.uniform(0.17, 0.22),
        "mouth_y": rng.uniform(0.45, 0.50),
        "mouth_width": rng.uniform(0.265, 0.305),
        "mouth_height": rng.uniform(0.29, 0.33),
        "lip_upper": rng.uniform(0.04, 0.06) + 0.012 * (not man),
        "lip_lower": rng.uniform(0.06, 0.085) + 0.012 * (not man),
        "lip_red": lip_red,
        "lip_tint": _tinted(rng, (0.78, 0.22, 0.27), 0.05),
        "smile": rng.uniform(0.0, 0.8),
        "glasses_round": float(names["glasses"] == "round"),
        "glasses_square": float(names["glasses"] == "square"),
        "glasses_colour": np.array(((0.08, 0.08, 0.09), (0.35, 0.10, 0.08), (0.10, 0.16, 0.34))[rng.integers(3)]),
        "moustache": float(names["beard"] != "none"),
        "full_beard": float(names["beard"] == "full"),
    }


def _hair(rng: np.random.Generator, names: dict[str, str]) -> dict[str, float | np.ndarray]:
    style = _STYLE_DEFAULTS | _STYLES[names["hair_style"]]
    bald = names["hair_colour"] == "none"
    colour = _tinted(rng, HAIR_COLOURS["brown" if bald else names["hair_colour"]], 0.02)
    jitter = {"hair_top": 0.03, "hair_line": 0.04, "hair_curve": 0.08, "back_end": 0.06 * (style["back_end"] > 0)}
    numbers = style | {name: style[name] + rng.uniform(-size, size) for name, size in jitter.items()}
    return numbers | {"hair": colour, "hair_part": rng.uniform(-0.28, 0.28), "hair_shine": rng.uniform(0.3, 1.0)}


def _tinted(rng: np.random.Generator, colour: tuple[float, float, float], spread: float) -> np.ndarray:
    return np.clip(np.array(colour) + rng.uniform(-spread, spread, 3), 0.0, 1.0)
