"""Say in natural words what an avatar shows.

A caption mentions some of the factors, in one of many forms, so that prompts may be short or long:
`a person with long wavy red hair in a bun and a big smile, wearing a green dress`.
"""

import random
from collections.abc import Callable, Sequence

from avatars.factors import FACTORS

SUBJECTS = (
    "a person",
    "a cartoon person",
    "an avatar",
    "an avatar of a person",
    "a portrait of a person",
    "a cartoon portrait",
    "a cartoon face",
    "a face",
    "a drawing of a person",
    "someone",
)
PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "mouth": {
        "smile": ("a smile", "a small smile", "a closed smile"),
        "laughing mouth": ("a laughing mouth", "a big laugh", "a happy laughing mouth"),
        "open mouth": ("an open mouth", "a surprised mouth", "a round open mouth"),
        "angry mouth": ("an angry mouth", "a grimace", "clenched teeth"),
    },
    "eyes": {
        "open eyes": ("open eyes", "wide open eyes", "big eyes"),
        "closed eyes": ("closed eyes", "happy closed eyes", "both eyes closed"),
        "wink": ("a wink", "one eye closed", "a winking eye"),
    },
    "eyebrows": {
        "relaxed brows": ("relaxed eyebrows", "neutral eyebrows", "calm brows"),
        "angry brows": ("angry eyebrows", "a frown", "angry brows"),
        "worried brows": ("worried eyebrows", "sad eyebrows", "worried brows"),
        "raised brows": ("raised eyebrows", "high eyebrows", "raised brows"),
    },
    "beard": {
        "no beard": ("no beard", "a clean-shaven face", "a shaved chin"),
        "moustache": ("a moustache", "a twirled moustache", "a thin moustache"),
        "short beard": ("a short beard", "a full beard", "a beard"),
        "long beard": ("a long beard", "a big long beard", "a very long beard"),
    },
    "skin": {
        "pale skin": ("pale skin", "fair skin", "light skin"),
        "tan skin": ("tan skin", "tanned skin"),
        "brown skin": ("brown skin", "medium brown skin"),
        "dark skin": ("dark skin", "dark brown skin"),
    },
}
CLAUSES: dict[str, tuple[str, ...]] = {
    "smile": ("smiling",),
    "laughing mouth": ("laughing",),
    "open mouth": ("looking surprised",),
    "wink": ("winking",),
    "angry brows": ("frowning",),
    "worried brows": ("looking worried",),
}
LENGTHS = {
    "short hair": "short",
    "chin-length hair": "chin-length",
    "shoulder-length hair": "shoulder-length",
    "long straight hair": "long straight",
    "long wavy hair": "long wavy",
}
STYLES = {"cropped hair": "cropped", "side-combed hair": "side-combed", "spiky hair": "spiky", "bun": "in a bun"}
GARMENTS = {
    "t-shirt": ("a {} t-shirt", "a {} tee"),
    "cardigan": ("a {} cardigan", "a {} cardigan over a shirt"),
    "jacket": ("a {} jacket", "an open {} jacket"),
    "turtleneck": ("a {} turtleneck", "a {} turtleneck sweater"),
    "dress": ("a {} dress", "a sleeveless {} dress"),
}


def caption(factors: Sequence[int], draw: random.Random) -> str:
    """A caption of an avatar, given the number of each factor's value."""
    return say(factors, choose(draw), draw)


def choose(draw: random.Random) -> set[str]:
    """Names of the factors that a caption mentions: between one and eight, expressions and beards most often."""
    count = draw.choice((1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8))
    order = sorted(FACTORS, key=lambda factor: draw.random() ** (1 / factor.said), reverse=True)
    return {factor.name for factor in order[:count]}


def say(factors: Sequence[int], mentioned: set[str], draw: random.Random) -> str:
    """A caption that mentions exactly these factors."""
    values = {
        factor.name: list(factor.values)[number]
        for factor, number in zip(FACTORS, factors, strict=True)
        if factor.name in mentioned
    }
    features: list[str] = []
    clauses: list[str] = []
    for name, phrases in PHRASES.items():
        if name in values:
            value = values[name]
            if value in CLAUSES and draw.random() < 0.25:
                clauses.append(draw.choice(CLAUSES[value]))
            else:
                features.append(draw.choice(phrases[value]))
    hair = _hair(values, draw)
    if hair:
        features.append(hair)
    draw.shuffle(features)
    garment = _garment(values, draw)
    background = _background(values, draw)
    form: Callable[..., str] = draw.choice((_sentence, _sentence, _sentence, _list, _tags))
    return form(draw, features, clauses, garment, background)


def _hair(values: dict[str, str], draw: random.Random) -> str | None:
    """`long wavy red hair in a bun`, `a black bun`, `spiky hair`: what is mentioned of the hair, as one phrase."""
    style, length, colour = (values.get(f"hair {part}") for part in ("style", "length", "colour"))
    if not (style or length or colour):
        return None
    shade = colour.removesuffix(" hair") if colour else ""
    if style == "bun" and not length and draw.random() < 0.5:
        return f"a {shade} bun" if shade else draw.choice(("a bun", "a hair bun"))
    before = [LENGTHS[length]] if length else []
    if style and style != "bun":
        before.append(STYLES[style])
    before.append(shade)
    after = draw.choice(("in a bun", "with a bun", "tied in a bun")) if style == "bun" else ""
    return " ".join([*(word for word in before if word), "hair", *([after] if after else [])])


def _garment(values: dict[str, str], draw: random.Random) -> str | None:
    """`a red turtleneck`, `a dress`, `red clothes`."""
    kind, colour = values.get("clothes"), values.get("clothes colour")
    shade = colour.removesuffix(" clothes") if colour else ""
    if kind is None:
        return f"{shade} clothes" if shade else None
    phrase = draw.choice(GARMENTS[kind]).format(shade)
    return " ".join(phrase.split())


def _background(values: dict[str, str], draw: random.Random) -> str | None:
    value = values.get("background")
    return value and draw.choice((f"on a {value}", f"against a {value}", f"in front of a {value}", value))


def _joined(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _sentence(
    draw: random.Random, features: list[str], clauses: list[str], garment: str | None, background: str | None
) -> str:
    """`a person with A, B and C, smiling, wearing D on a blue background`."""
    text = draw.choice(SUBJECTS)
    if features:
        text += " with " + _joined(features)
    for clause in clauses:
        text += f", {clause}" if features or len(clauses) > 1 else f" {clause}"
    if garment:
        joint = draw.choice((", wearing ", " wearing ", " in ", ", dressed in "))
        text += (", wearing " if clauses else joint) + garment
    if background:
        text += ("" if background[:2] in {"on", "ag", "in"} and draw.random() < 0.5 else ",") + f" {background}"
    return text


def _list(
    draw: random.Random, features: list[str], clauses: list[str], garment: str | None, background: str | None
) -> str:
    """`a cartoon face, A, B, smiling, D, blue background`."""
    parts = [*features, *clauses, *([garment] if garment else []), *([background] if background else [])]
    return ", ".join([draw.choice(SUBJECTS), *parts])


def _tags(
    draw: random.Random, features: list[str], clauses: list[str], garment: str | None, background: str | None
) -> str:
    """`B, a cartoon face, D, A`: the same in any order, with or without a subject."""
    parts = [*features, *clauses, *([garment] if garment else []), *([background] if background else [])]
    if draw.random() < 0.5:
        parts.append(draw.choice(SUBJECTS))
    draw.shuffle(parts)
    return ", ".join(parts)
