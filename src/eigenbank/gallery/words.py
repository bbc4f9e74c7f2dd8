"""Plain words for recipes, sources of labels, seeds and qualities."""

from collections.abc import Sequence
from dataclasses import dataclass

from eigenbank.schemas import Recipe


@dataclass(frozen=True)
class QualityMeasure:
    """One of the numbers of a direction's quality, and what to call its sizes.

    `key` is the field of `Quality`. `full` is the value at which its bar is full. `words` are `(below, word)` in rising
    order; the last one's bound is None. A unit that begins with ` %` is of the hundredfold.
    """

    key: str
    title: str
    unit: str
    about: str
    full: float
    words: tuple[tuple[float | None, str], ...]

    def word(self, value: float) -> str:
        """Return the word for a value."""
        return next(word for below, word in self.words if below is None or value < below)


MEASURES = (
    QualityMeasure(
        "effect",
        "Strength",
        " σ per unit of scale",
        "How far the score that moves most is moved, in standard deviations of the checkpoint's own images.",
        2.0,
        ((0.2, "barely moves anything"), (0.5, "gentle"), (1.0, "clear"), (None, "strong")),
    ),
    QualityMeasure(
        "selectivity",
        "Does one thing",
        " % of all the change",
        "Share of the change, over all scores, that falls on the one that moves most.",
        1.0,
        ((1 / 3, "moves many things at once"), (2 / 3, "moves a few things"), (None, "moves mostly one thing")),
    ),
    QualityMeasure(
        "consistency",
        "Same on every picture",
        " % of the seeds agree",
        "Share of the seeds on which it moves the same way.",
        1.0,
        ((0.75, "often goes the other way"), (0.95, "nearly always the same way"), (None, "always the same way")),
    ),
    QualityMeasure(
        "linearity",
        "Steady",
        " R² of a straight line",
        "How well a straight line through zero describes the response to the scale.",
        1.0,
        ((0.7, "comes in jumps"), (0.9, "roughly even"), (None, "twice the scale, twice the change")),
    ),
    QualityMeasure(
        "locality",
        "Stays in place",
        " % of the change in a tenth of the picture",
        "Share of the squared change of the pixels within the tenth of the picture that changes most.",
        1.0,
        ((0.4, "changes the whole picture"), (0.7, "changes a region"), (None, "changes one spot")),
    ),
    QualityMeasure(
        "drift",
        "Side effects",
        " σ at scale ±1; less is better",
        "How far the other scores move along, in standard deviations (root mean square).",
        1.0,
        ((0.2, "leaves the rest alone"), (0.5, "moves other things a little"), (None, "moves other things, too")),
    ),
)

_MATRICES = {
    "value": "value weights",
    "output-value": "output times value weights",
    "query-key": "query times key weights",
    "qkv": "query, key and value weights",
}
_SITES = {"projection-input": "what the layer reads", "block-output": "what the layer writes"}


def recipe_words(recipe: Recipe) -> dict[str, str]:
    """Describe a recipe: `of` which matrix it is an eigenvector, `where` it is added, `when` in the run."""
    head = "" if recipe.head is None else f", head {recipe.head}"
    window = recipe.window
    when = "the whole run" if window.whole else f"{_percent(window.start)} to {_percent(window.end)} of the run"
    return {
        "of": _MATRICES.get(recipe.matrix, recipe.matrix) + head,
        "where": _SITES.get(recipe.site, recipe.site),
        "when": when,
    }


def source_words(source: str) -> str:
    """Describe the source of a label."""
    kind, _, rest = source.partition(":")
    if kind == "human":
        return f"a person, {rest}" if rest else "a person"
    if kind == "statistics":
        return "image statistics"
    if kind == "attribute-model":
        return f"attribute model {rest[:8]}".rstrip()
    if kind == "clip":
        return f"CLIP, {rest.partition('@')[0]}" if rest else "CLIP"
    return source


def seeds_words(seeds: Sequence[int]) -> str:
    """Describe seeds: `12 seeds, 100 to 111`."""
    if not seeds:
        return "no seeds"
    first, last = min(seeds), max(seeds)
    if len(seeds) == 1:
        return f"seed {first}"
    if len(set(seeds)) == last - first + 1 == len(seeds):
        return f"{len(seeds)} seeds, {first} to {last}"
    shown = ", ".join(str(seed) for seed in seeds[:8])
    return f"{len(seeds)} seeds, {shown}{' …' if len(seeds) > 8 else ''}"


def _percent(fraction: float) -> str:
    return f"{fraction * 100:g} %"
