"""The record of a direction or composite: everything about it but the vector itself, with its labels."""

from typing import Annotated, Literal

from pydantic import AfterValidator, FailFast, Field, StringConstraints

from eigenbank.schemas.common import MAX_RANKS, Model, ModulePath, Moment, Note, Seeds, Sha256, Share, Steps, Text, Word
from eigenbank.schemas.recipe import Branch, Recipe


def _rounded(value: float) -> float:
    return round(value, 4) + 0.0  # never -0.0


ROUNDED = AfterValidator(_rounded)
Measured = Annotated[float, Field(ge=0, le=1e6), ROUNDED]
"""A measured size, kept to four decimals: a few seeds measure no finer than that."""
Signed = Annotated[float, Field(ge=-1e6, le=1e6), ROUNDED]
"""The same with a sign."""
Rate = Annotated[float, Field(ge=0, le=1), ROUNDED]
"""A measured share or probability, kept to four decimals."""
Scale = Annotated[float, Field(ge=-100, le=100), ROUNDED]


class Evidence(Model):
    """What was measured to give a label, on seeds other than those it was found with.

    `effect`: change of the labelled attribute in population standard deviations per unit scale, mean over seeds of
    (f(+α) − f(−α)) / 2α. `selectivity`: its share of the absolute effects on all attributes. `runner_up`: the attribute
    moved next most, and `runner_up_effect` by how much. `consistency`: share of seeds on which the sign agrees.
    `asymmetry`: size of the even part of the response against the odd one. `null`: root mean square effect, on the same
    attribute, of random directions of equal length at the same place.
    """

    effect: Signed
    selectivity: Rate
    consistency: Rate
    asymmetry: Measured | None = None
    null: Measured | None = None
    runner_up: Text | None = None
    runner_up_effect: Signed | None = None
    scale: Annotated[float, Field(gt=0)]
    seeds: Seeds
    steps: Steps


class Label(Model):
    """A name that a person or a labeler gave a direction.

    `polarity` is −1 when the direction as stored moves against the word, so that a positive scale always means more of
    it. `source` is who gave it: `attribute-model:<digest>`, `statistics`, `clip:<model>@<revision>`, `human:<name>`.
    `confidence` is the source's estimate of the probability that a rerun on other seeds gives the same label; None where
    the source has none.
    """

    text: Word
    polarity: Literal[-1, 1] = 1
    confidence: Rate | None = None
    source: Annotated[str, StringConstraints(pattern=r"^[\w-]+(:[^\x00-\x1f\x7f]+)?$", max_length=300)]
    evidence: Evidence | None = None
    note: Note | None = None
    created: Moment

    @property
    def worth(self) -> float:
        """How good a slider this label promises; the larger the better. A person's word is 2 to 3, a label with evidence 1 to 2,
        any other 0 to 1.

        Within 1 to 2 it is the product of confidence, selectivity, effect (more than one standard deviation per unit scale is
        no better), and the odd part's share of the response: at −1, a slider does the contrary of what it does at +1.
        Otherwise it is the confidence; an unknown confidence counts as 0. Six decimals, so that every store orders alike.
        """
        trust, evidence = self.confidence or 0.0, self.evidence
        if self.source.startswith("human:"):
            return 2 + trust
        if evidence is None:
            return trust
        odd = 1 / (1 + (evidence.asymmetry or 0.0))
        return round(1 + trust * evidence.selectivity * min(1.0, abs(evidence.effect)) * odd, 6)


class Preview(Model):
    """How a direction's preview was generated: a grid of equal cells, a row per seed, a column per scale, no margins.

    Scales are of the vector as it is stored: where its label has polarity −1, more of the word is to the negative side.
    """

    seeds: tuple[int, ...] = Field(min_length=1, max_length=64)
    scales: tuple[Annotated[float, Field(ge=-100, le=100)], ...] = Field(min_length=1, max_length=101)
    steps: Steps


class Quality(Model):
    """How a direction behaves as a slider, whatever its label. A field is None where it was not measured.

    Scores are those of the labeler `source`, in standard deviations of the checkpoint's own images; the score that the
    direction moves most is the led one. Sizes are of the odd part of the response, (f(+α) − f(−α)) / 2α, at ±`scale`.

    `effect`: of the led score per unit scale. `selectivity`: its share of the absolute effects on all scores.
    `consistency`: share of seeds on which its sign agrees. `linearity`: R² of a line through zero, from the scale to the
    led score's mean change, at ±½, ±1 and ±2 times `scale`. `recommended_range`: the scales between which that change
    grows and is odder than even, 0 where it is not on a side. `locality`: share of the squared change of the pixels that
    falls within the tenth of the picture that changes most. `drift`: root mean square change of the scores not led.
    """

    source: Annotated[str, StringConstraints(pattern=r"^[\w-]+(:[^\x00-\x1f\x7f]+)?$", max_length=300)]
    effect: Measured | None = None
    selectivity: Rate | None = None
    consistency: Rate | None = None
    linearity: Rate | None = None
    recommended_range: tuple[Scale, Scale] | None = None
    locality: Rate | None = None
    drift: Measured | None = None
    scale: Annotated[float, Field(gt=0)]
    seeds: Seeds
    steps: Steps


class DirectionRecord(Model):
    """One eigenvector: which one, and its position in the spectrum.

    `eigenvalue` is of the recipe's Gram matrix, in float64. `share` is the eigenvalue over the trace. `gap` is the
    distance to the nearest other eigenvalue over the largest one: near 0 the vector is an arbitrary rotation within its
    eigenspace. `rank` 0 is the largest eigenvalue. `quality` is its measured behaviour as a slider, `preview` how the picture
    among the set's files was generated.
    """

    layer: ModulePath
    recipe: Recipe
    rank: Annotated[int, Field(ge=0, lt=MAX_RANKS)]
    eigenvalue: Annotated[float, Field(ge=0)]
    share: Share
    gap: Annotated[float, Field(ge=0)] | None
    labels: Annotated[tuple[Label, ...], FailFast()] = Field(default=(), max_length=1000)
    quality: Quality | None = None
    preview: Preview | None = None

    @property
    def id(self) -> str:
        """The direction's name within its model: `LAYER/RECIPE/RANK`."""
        return f"{self.layer}/{self.recipe.slug}/{self.rank}"


class Weighted(Model):
    """A direction of the same set, by its id, and its weight."""

    direction: Annotated[
        str, StringConstraints(max_length=600, pattern=r"^[^\x00-\x1f\x7f#]+/[^\x00-\x1f\x7f#/]+/\d{1,4}$")
    ]
    weight: Annotated[float, Field(ge=-10, le=10)]


CompositeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,99}$")]


class CompositeRecord(Model):
    """Directions, of one or several layers, that are added together as one slider: each at its weight times the scale.

    Weights are in token lengths of the direction's own layer, as scales are. `branch` is where in classifier-free guidance it acts
    unless one says otherwise: on the conditional branch alone guidance amplifies it, as it does the prompt.
    """

    name: CompositeName
    parts: Annotated[tuple[Weighted, ...], FailFast()] = Field(min_length=1, max_length=1000)
    branch: Branch = "both"
    labels: Annotated[tuple[Label, ...], FailFast()] = Field(default=(), max_length=1000)
    quality: Quality | None = None
    preview: Preview | None = None

    @property
    def id(self) -> str:
        """The composite's name within its model: `composite/NAME`."""
        return f"composite/{self.name}"


class LoraRecord(Model):
    """A LoRA that somebody trained, held beside the directions: a slider to compare them with, whose scale is the adapter's weight.

    The set does not hold the file, which is known by its SHA-256 and size in bytes. `origin` is where it came from:
    `REPO@COMMIT/FILE` on the Hub, or a local file's name.
    """

    name: CompositeName
    sha256: Sha256
    size: Annotated[int, Field(gt=0, le=64 * 2**30)]
    origin: Text
    labels: Annotated[tuple[Label, ...], FailFast()] = Field(default=(), max_length=1000)
    quality: Quality | None = None
    preview: Preview | None = None

    @property
    def id(self) -> str:
        """The LoRA's name within its model: `lora/NAME`."""
        return f"lora/{self.name}"


SliderRecord = DirectionRecord | CompositeRecord | LoraRecord
"""The record of whatever can have a label."""
