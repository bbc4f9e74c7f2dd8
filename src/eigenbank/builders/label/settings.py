"""How a set is labelled, and how many images that takes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eigenbank.builders.label.budget import Budget
from eigenbank.builders.label.composites import PARTS
from eigenbank.builders.label.labeler import Labeler
from eigenbank.builders.label.quality import SCALES
from eigenbank.registry.sets.direction_set import Direction, DirectionSet, Lora, Slider

POPULATION = tuple(range(2_000_000, 2_000_032))
"""Seeds of the unedited images whose scores say how much each varies by itself. No other measurement uses them."""
Screening = Literal["predicted", "drawn"]
ROUNDS = ((1, 1), (1 / 3, 1), (1 / 4, 2), (1 / 8, 4))
"""Screening by predicted images: the share of the directions that is looked at, and on how many eighths of the seeds."""

FEWEST = 350
"""So many directions are looked at on all seeds, if there are: composites are fitted to what is left, and are the better for more."""

Spot = tuple[str, ...]
"""Where a random direction stands in for another: a layer and a recipe, or a composite."""


@dataclass(frozen=True)
class LabelSettings:
    """How a set is labelled.

    Directions are screened at ± `scale` on `seeds`: in `predicted` images of one pass each, where the less promising ones
    leave after each of `ROUNDS`, or all of them on all seeds in `drawn` images of so many denoising `steps`. For each score a
    composite of at most `parts` directions, and the `most` promising single ones, are confirmed one after the other until
    `per_word` of them have its label: on `confirm_seeds`, beside `null` random directions at the same spot, each on its share
    of these seeds. What they do not settle is measured on as many again, and on twice as many, up to `confirm_most` in all; the
    random ones go along up to `chance_most`. Qualities are measured on the
    first `quality_seeds` of `confirm_seeds`, of what got a label, or with `all_qualities` of every direction. A checkpoint
    in whose own images neighbouring pixels agree less than `agreement` generates noise, and nothing there gets a name. With a
    `budget`, half of it at most is for screening, and what it leaves no room for is not examined. With `words` only these of the
    labelers' names are given, and what is kept of earlier screenings is taken for this one, if there is anything.
    Without `confirm` screening is all.
    """

    scale: float = 1.0
    screening: Screening = "predicted"
    seeds: tuple[int, ...] = tuple(range(100, 108))
    confirm_seeds: tuple[int, ...] = tuple(range(200, 208))
    per_word: int = 1
    confirm_most: int = 48
    chance_most: int = 24
    steps: int = 10
    most: int = 2
    null: int = 4
    parts: int = PARTS
    quality_seeds: int = 6
    all_qualities: bool = False
    agreement: float = 0.3
    budget: Budget | None = None
    words: tuple[str, ...] | None = None
    confirm: bool = True

    def asks_for(self, text: str) -> bool:
        """Whether a labeler's name may be given."""
        return self.words is None or text in self.words


FINDING = LabelSettings(confirm_most=20, chance_most=12, quality_seeds=3)
"""How the slider for one word is found: screened as by default, so that what was kept fits, and confirmed on fewer images."""


def images_at_most(
    directions: DirectionSet,
    labelers: Sequence[Labeler],
    settings: LabelSettings,
    *,
    screened: bool = False,
    more: int = 0,
) -> int:
    """How many images labelling generates at most, `screened` before or not, where `more` candidates are confirmed beside its own
    and the set's LoRAs; how many it will be depends on what the first show.
    """
    scores, spots = sum(len(each.names) for each in labelers), len({spot_of(each) for each in directions})
    windows = len({each.recipe.window.whole for each in directions}) == 2
    most = images_for(len(directions), spots, scores, settings, screened=screened, windows=windows)
    more += len(compared(directions, settings))
    return most + (images_to_confirm(settings, more, more, more) if more and settings.confirm else 0)


def compared(directions: DirectionSet, settings: LabelSettings) -> tuple[Lora, ...]:
    """The LoRAs that are measured beside the directions: all of the set, unless single words are asked for."""
    return directions.loras if settings.words is None else ()


def images_for(
    directions: int, spots: int, scores: int, settings: LabelSettings, *, screened: bool = False, windows: bool = False
) -> int:
    """How many images labelling generates at most, of so many directions in so many layers by recipes, for so many scores.

    Where there are `windows`, composites without one are tried beside those that may hold some.
    """
    asked = scores if settings.words is None else len(settings.words)
    singles, composites = min(directions, settings.most * asked), (1 + windows) * asked if settings.parts >= 2 else 0
    spots = min(singles, spots) + composites
    screening = 0 if screened else len(POPULATION) + images_to_screen(directions, scores, settings)
    if not settings.confirm:
        return screening
    return screening + images_to_confirm(settings, singles + composites, spots, directions + composites)


def rounds_of(directions: int, scores: int, settings: LabelSettings) -> list[tuple[int, tuple[int, ...]]]:
    """How many directions are screened in each round, and on which seeds: `FEWEST` at least, and not fewer than are to be confirmed."""
    if settings.screening == "drawn":
        return [(directions, settings.seeds)]
    rounds, seeds, behind = [], settings.seeds, 0
    for share, eighths in ROUNDS:
        begin, behind = behind, behind + eighths
        some = seeds[len(seeds) * begin // 8 : len(seeds) * behind // 8]
        rounds.append((min(directions, max(math.ceil(share * directions), 2 * settings.most * scores, FEWEST)), some))
    rounds = [each for each in rounds if each[1]]
    return [(directions, rounds[0][1]), *rounds[1:]]


def images_to_screen(directions: int, scores: int, settings: LabelSettings) -> int:
    """Images that screening takes; a predicted one is one of the `steps` passes of an image, its run up to there some more."""
    rounds = rounds_of(directions, scores, settings)
    if settings.screening == "drawn":
        return images_of(directions, len(settings.seeds))
    passes = sum(images_of(count, len(seeds)) for count, seeds in rounds)
    return math.ceil(passes / settings.steps) + len(settings.seeds)


def images_to_confirm(settings: LabelSettings, sliders: int, spots: int, measured: int) -> int:
    """Images at most from so many candidates in so many spots on; with all qualities, those of `measured` sliders."""
    seeds = len(settings.confirm_seeds)
    more = max(0, settings.confirm_most - seeds)
    shared = min(more, max(0, settings.chance_most - seeds))  # among the draws of random sliders
    confirming = images_of(sliders, seeds + more)
    chance = images_of(spots, max(seeds, settings.null) + shared) if spots else 0
    return (
        (confirming if sliders else 0)
        + chance
        + images_of_qualities(settings, measured if settings.all_qualities else sliders)
    )


def images_of_qualities(settings: LabelSettings, sliders: int) -> int:
    return len(SCALES) * images_of(sliders, len(settings.confirm_seeds[: settings.quality_seeds])) if sliders else 0


def images_of(sliders: int, seeds: int) -> int:
    """Images of sliders at a scale and at its negative, and of none."""
    return (2 * sliders + 1) * seeds


def spot_of(slider: Slider) -> Spot:
    """Where random directions stand in for a slider: the same ones for all directions of a layer and recipe."""
    return (slider.layer, slider.recipe.slug) if isinstance(slider, Direction) else (slider.id,)
