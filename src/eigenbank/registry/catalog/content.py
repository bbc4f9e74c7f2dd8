"""What a catalog holds of a checkpoint, as plain values: the form in which sets are put in, exported and merged."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, NamedTuple

from eigenbank.registry.catalog.models import EPOCH, MICROSECOND
from eigenbank.schemas import Label, Manifest, Quality

COMPOSITE = "composite/"
"""What the name of a composite begins with."""
MAKE: Any = tuple.__new__
"""A named tuple of a tuple: for millions, its own way takes twice as long."""


class EvidenceData(NamedTuple):
    """What was measured for a label; see `schemas.Evidence`."""

    effect: float
    selectivity: float
    consistency: float
    asymmetry: float | None
    runner_up: str | None
    runner_up_effect: float | None
    null: float | None
    scale: float
    steps: int
    seeds: tuple[int, ...]


class LabelData(NamedTuple):
    """A label; `created` in microseconds since 1970."""

    text: str
    source: str
    polarity: int
    confidence: float | None
    created: int
    note: str | None
    evidence: EvidenceData | None

    @property
    def human(self) -> bool:
        """Whether a person gave it."""
        return self.source.partition(":")[0] == "human"


class QualityData(NamedTuple):
    """How a direction or composite behaves as a slider; see `schemas.Quality`."""

    source: str
    effect: float | None
    selectivity: float | None
    consistency: float | None
    linearity: float | None
    recommended_range: tuple[float, float] | None
    locality: float | None
    drift: float | None
    scale: float
    steps: int
    seeds: tuple[int, ...]


class LayerData(NamedTuple):
    """A layer of a set."""

    name: str
    kind: str
    width: int
    heads: int


class DirectionData(NamedTuple):
    """A direction of a set, with its labels and its quality, where that is known."""

    layer: str
    recipe: str
    rank: int
    eigenvalue: float
    share: float
    gap: float | None
    labels: list[LabelData]
    quality: QualityData | None = None

    @property
    def name(self) -> str:
        """The name within its model, `LAYER/RECIPE/RANK`."""
        return f"{self.layer}/{self.recipe}/{self.rank}"


class CompositeData(NamedTuple):
    """A composite of a set, with its labels and its quality, where that is known. What it is made of is in the set."""

    bare: str
    labels: list[LabelData]
    quality: QualityData | None = None

    @property
    def name(self) -> str:
        """The name within its model, `composite/NAME`."""
        return f"{COMPOSITE}{self.bare}"


class SetFacts(NamedTuple):
    """A set but for its layers and directions. `created` in microseconds since 1970."""

    location: str
    digest: str
    created: int
    builder: str
    licence: str
    repo: str | None
    commit: str | None


@dataclass
class SetData:
    """A direction set. `directions` are in catalog order once they were read from a catalog."""

    facts: SetFacts
    layers: list[LayerData]
    directions: list[DirectionData]
    composites: list[CompositeData] = field(default_factory=list)

    @property
    def sliders(self) -> "list[DirectionData | CompositeData]":
        """All that can have a label."""
        return [*self.directions, *self.composites]


@dataclass
class CheckpointData:
    """A checkpoint with its set, None where only people's labels are left of it. `strays`: labels that wait for their
    direction, by its name. `revision` '' where there is none.
    """

    model_id: str
    revision: str
    denoiser: str
    component: str
    licence: str | None
    path: str | None
    set: SetData | None
    strays: dict[str, list[LabelData]] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """What there is only one of."""
        return self.model_id, self.revision


def microseconds(moment: datetime) -> int:
    """Return a point in time as microseconds since 1970; without a zone it is taken as UTC."""
    return ((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)) - EPOCH) // MICROSECOND


def moment(since: int) -> datetime:
    """Return the point in time that is so many microseconds after 1970, in UTC."""
    return EPOCH + MICROSECOND * since


def label_data(label: Label) -> LabelData:
    """Return a label's values."""
    found, evidence = label.evidence, None
    if found is not None:
        evidence = EvidenceData(**{name: getattr(found, name) for name in EvidenceData._fields})
    created = microseconds(label.created)
    return LabelData(label.text, label.source, label.polarity, label.confidence, created, label.note, evidence)


def label_document(label: LabelData) -> dict[str, Any]:
    """Return a label as JSON, in the form of `schemas.Label`."""
    document: dict[str, Any] = {"text": label.text, "polarity": label.polarity, "source": label.source}
    document["confidence"] = label.confidence
    document["created"] = moment(label.created).isoformat()
    if label.note is not None:
        document["note"] = label.note
    if label.evidence is not None:
        document["evidence"] = label.evidence._asdict()
    return document


def _quality_data(quality: Quality) -> QualityData:
    return QualityData(**{name: getattr(quality, name) for name in QualityData._fields})


def composites_of(manifest: Manifest) -> list[CompositeData]:
    """Return what the catalog keeps of a set's composites."""
    return [
        CompositeData(
            record.name,
            [label_data(label) for label in record.labels],
            None if record.quality is None else _quality_data(record.quality),
        )
        for record in manifest.composites
    ]


def from_manifest(
    manifest: Manifest,
    *,
    location: str,
    digest: str,
    checkpoint_path: str | None = None,
    repo: str | None = None,
    commit: str | None = None,
) -> CheckpointData:
    """Return what the catalog keeps of a set."""
    checkpoint = manifest.checkpoint
    directions = [
        DirectionData(
            record.layer,
            record.recipe.slug,
            record.rank,
            record.eigenvalue,
            record.share,
            record.gap,
            [label_data(label) for label in record.labels],
            None if record.quality is None else _quality_data(record.quality),
        )
        for record in manifest.directions
    ]
    layers = [LayerData(layer.name, layer.kind, layer.width, layer.heads) for layer in manifest.layers]
    created = microseconds(manifest.created)
    facts = SetFacts(location, digest, created, manifest.builder, manifest.licence, repo, commit)
    return CheckpointData(
        model_id=checkpoint.model_id,
        revision=checkpoint.revision or "",
        denoiser=checkpoint.denoiser,
        component=checkpoint.component,
        licence=checkpoint.licence,
        path=checkpoint_path,
        set=SetData(facts, layers, directions, composites_of(manifest)),
    )


def distinct(labels: Iterable[LabelData]) -> list[LabelData]:
    """Return one label of each text and source: the newest of those that say the same, whatever their order."""
    kept: dict[tuple[str, str], LabelData] = {}
    for label in labels:
        other = kept.get((label.text, label.source))
        if other is None or _age(label) > _age(other):
            kept[label.text, label.source] = label
    return list(kept.values())


def _age(label: LabelData) -> tuple[int, str]:
    return label.created, repr(label)
