"""What varies from avatar to avatar: eleven factors, each with a few values that can be told apart at 64×64 pixels.

The values are options of the avatar style "ToonHead". Left out are those that look like another one when small (the sad
mouth, half-closed eyes, a goatee), and one hair colour, grey, is added. The factors are independent.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Factor:
    """`values` maps a value's name to the style's option; None means that the part is left out.

    `odds` says how often each value is drawn, `said` how readily captions mention the factor.
    """

    name: str
    option: str
    values: dict[str, str | None]
    odds: tuple[float, ...] = ()
    said: float = 1.0


FACTORS = (
    Factor(
        "mouth",
        "mouth",
        {"smile": "smile", "laughing mouth": "laugh", "open mouth": "agape", "angry mouth": "angry"},
        said=2.5,
    ),
    Factor("eyes", "eyes", {"open eyes": "wide", "closed eyes": "bow", "wink": "wink"}, (0.5, 0.25, 0.25), said=1.5),
    Factor(
        "eyebrows",
        "eyebrows",
        {"relaxed brows": "neutral", "angry brows": "angry", "worried brows": "sad", "raised brows": "happy"},
        said=2.5,
    ),
    Factor(
        "beard",
        "beard",
        {"no beard": None, "moustache": "moustacheTwirl", "short beard": "fullBeard", "long beard": "longBeard"},
        (0.4, 0.2, 0.2, 0.2),
        said=2.0,
    ),
    Factor(
        "hair style",
        "hair",
        {"cropped hair": "undercut", "side-combed hair": "sideComed", "spiky hair": "spiky", "bun": "bun"},
        said=1.5,
    ),
    Factor(
        "hair length",
        "rearHair",
        {
            "short hair": None,
            "chin-length hair": "neckHigh",
            "shoulder-length hair": "shoulderHigh",
            "long straight hair": "longStraight",
            "long wavy hair": "longWavy",
        },
        (0.36, 0.16, 0.16, 0.16, 0.16),
    ),
    Factor(
        "hair colour",
        "hair",
        {
            "black hair": "#2c1b18",
            "brown hair": "#724133",
            "red hair": "#b5502a",
            "blond hair": "#d6b370",
            "grey hair": "#b9b7b4",
        },
        said=1.5,
    ),
    Factor(
        "skin",
        "skin",
        {"pale skin": "#f1c3a5", "tan skin": "#c68e7a", "brown skin": "#a36b4f", "dark skin": "#5c3829"},
    ),
    Factor(
        "clothes",
        "clothes",
        {
            "t-shirt": "tShirt",
            "cardigan": "shirt",
            "jacket": "openJacket",
            "turtleneck": "turtleNeck",
            "dress": "dress",
        },
        said=1.5,
    ),
    Factor(
        "clothes colour",
        "clothes",
        {
            "black clothes": "#151613",
            "white clothes": "#e8e9e6",
            "red clothes": "#b11f1f",
            "blue clothes": "#0b3286",
            "green clothes": "#147f3c",
            "yellow clothes": "#eab308",
            "pink clothes": "#ec4899",
            "purple clothes": "#731ac3",
        },
        said=1.5,
    ),
    Factor(
        "background",
        "background",
        {
            "white background": "#ffffff",
            "blue background": "#a9d6fa",
            "green background": "#bfe8b4",
            "yellow background": "#ffe48a",
            "pink background": "#ffc6d9",
        },
        said=0.8,
    ),
)
NAMES = tuple(factor.name for factor in FACTORS)
VALUES = tuple(value for factor in FACTORS for value in factor.values)
"""Every value of every factor, in one row: what the factor reader scores."""

SLIDERS: dict[str, dict[str, float]] = {
    "smile": {"smile": 1, "laughing mouth": 1, "angry mouth": -1},
    "open mouth": {"open mouth": 1, "laughing mouth": 1},
    "closed eyes": {"closed eyes": 1, "wink": 0.5},
    "angry brows": {"angry brows": 1, "worried brows": -1},
    "raised brows": {"raised brows": 1},
    "beard": {"moustache": 1 / 3, "short beard": 2 / 3, "long beard": 1},
    "spiky hair": {"spiky hair": 1},
    "bun": {"bun": 1},
    "hair length": {
        "chin-length hair": 1 / 3,
        "shoulder-length hair": 2 / 3,
        "long straight hair": 1,
        "long wavy hair": 1,
    },
    "light hair": {"brown hair": 0.25, "red hair": 0.4, "blond hair": 0.9, "grey hair": 1},
    "red hair": {"red hair": 1, "brown hair": 0.3},
    "dark skin": {"tan skin": 1 / 3, "brown skin": 2 / 3, "dark skin": 1},
    "light clothes": {"white clothes": 1, "yellow clothes": 0.8, "pink clothes": 0.6, "black clothes": -0.5},
    "red clothes": {"red clothes": 1, "pink clothes": 0.5},
    "dress": {"dress": 1},
    "turtleneck": {"turtleneck": 1},
    "warm background": {"yellow background": 1, "pink background": 1, "blue background": -1, "green background": -0.5},
}
"""What a slider can change, as sums of values: more or less of it, where values exclude one another."""


def slider_weights() -> Tensor:
    """`(len(SLIDERS), len(VALUES))`: the sums of values that `SLIDERS` are."""
    return torch.tensor([[weights.get(value, 0.0) for value in VALUES] for weights in SLIDERS.values()])


def value_odds() -> list[Tensor]:
    """For each factor, how often its values are drawn."""
    odds = [torch.tensor(factor.odds or (1.0,) * len(factor.values)) for factor in FACTORS]
    return [each / each.sum() for each in odds]


def sample_factors(count: int, generator: torch.Generator) -> Tensor:
    """`(count, 11)` int64: for each avatar, the number of each factor's value, drawn independently."""
    columns = [torch.multinomial(odds, count, replacement=True, generator=generator) for odds in value_odds()]
    return torch.stack(columns, 1)


def one_hot(factors: Tensor) -> Tensor:
    """`(n, 11)` value numbers as `(n, len(VALUES))` float32 zeros and ones."""
    parts = [
        torch.nn.functional.one_hot(column, len(factor.values))
        for column, factor in zip(factors.T, FACTORS, strict=True)
    ]
    return torch.cat(parts, 1).float()


def split_scores(scores: Tensor) -> dict[str, Tensor]:
    """`(n, len(VALUES))` scores by factor: `{name: (n, number of its values)}`."""
    parts = scores.split([len(factor.values) for factor in FACTORS], dim=1)
    return dict(zip(NAMES, parts, strict=True))
