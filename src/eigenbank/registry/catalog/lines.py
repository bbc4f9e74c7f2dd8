"""A checkpoint as a line of JSON: its form, checked field by field, to and from plain values.

A line has thousands of labels. They, the directions and composites they are of, their evidence and qualities are lists of values,
in the order of FIELDS, which the first line of an export says; everything else of a line is objects. Evidence and qualities end
with the number of their protocol among the line's, each of which it has once.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from types import GenericAlias, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, FailFast, Field, create_model, model_validator
from typing_extensions import Self

from eigenbank.registry.catalog.content import (
    MAKE,
    CheckpointData,
    CompositeData,
    DirectionData,
    EvidenceData,
    LabelData,
    LayerData,
    QualityData,
    SetData,
    SetFacts,
    microseconds,
)
from eigenbank.schemas import Checkpoint, Evidence, Label, Quality
from eigenbank.schemas.common import (
    MAX_COMPOSITES,
    MAX_DIRECTIONS,
    MAX_LAYERS,
    MAX_RANKS,
    Model,
    ModulePath,
    Revision,
    Share,
    Text,
    Width,
)
from eigenbank.schemas.direction import ROUNDED, CompositeName
from eigenbank.schemas.errors import Where
from eigenbank.schemas.layer import Kind

Place = Annotated[str, Field(min_length=1, max_length=10_000, pattern=r"^[^\x00]*$")]
Microseconds = Annotated[int, Field(ge=microseconds(datetime.min), le=microseconds(datetime.max))]
"""A point in time in microseconds since 1970."""
_PROTOCOL = ("scale", "steps", "seeds")
"""The fields of evidence and qualities that many of a line have in common, the last of both."""
_EVIDENCE = (*EvidenceData._fields[: -len(_PROTOCOL)], "protocol")
_QUALITY = (*QualityData._fields[: -len(_PROTOCOL)], "protocol")
_MOST_LABELS = 1_000_000
"""A set has fewer of a direction, but people may add any number."""
FIELDS = {
    "directions": DirectionData._fields,
    "composites": ("name", *CompositeData._fields[1:]),
    "labels": LabelData._fields,
    "evidence": _EVIDENCE,
    "quality": _QUALITY,
}
"""What the values of a list are, in order."""


class _Checkpoint(Checkpoint):
    path: Place | None = None


class _Set(Model):
    location: Place
    digest: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
    created: Microseconds
    builder: Text
    licence: Text
    repo: Revision | None = None
    commit: Revision | None = None


class _Layer(Model):
    name: ModulePath
    kind: Kind
    width: Width
    heads: Annotated[int, Field(ge=1, le=4096)]


class _Direction(Model):
    layer: ModulePath
    recipe: Annotated[str, Field(max_length=200, pattern=r"^[a-z][a-z0-9-]*(\.h\d+)?(:output)?(@[\d.]+-[\d.]+)?$")]
    rank: Annotated[int, Field(ge=0, lt=MAX_RANKS)]
    eigenvalue: Annotated[float, Field(ge=0)]
    share: Share
    gap: Annotated[float, Field(ge=0)] | None


class _Composite(Model):
    name: CompositeName


class Entry(Model):
    """A line: a checkpoint, its set where it has one, and the labels that wait for a direction."""

    checkpoint: _Checkpoint
    set: _Set | None = None
    layers: list[_Layer] = Field(default=[], max_length=MAX_LAYERS)
    # What these are is made of the schemas: see `line`.
    directions: Any = Field(default=[])
    composites: Any = Field(default=[])
    strays: Any = Field(default=[])
    protocols: Any = Field(default=[])

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        layers = {layer.name for layer in self.layers}
        names = {record[:3] for record in self.directions}
        if self.set is None and self.layers:
            message = "there are layers, but no set"
        elif self.set is None and self.composites:
            message = "there are composites, but no set"
        elif len({composite[0] for composite in self.composites}) != len(self.composites):
            message = "a composite is listed twice"
        elif len(layers) != len(self.layers):
            message = "a layer is listed twice"
        elif len(names) != len(self.directions):
            message = "a direction is listed twice"
        elif not {name[0] for name in names} <= layers:
            message = "a direction is of a layer that is not listed"
        elif len({stray.direction for stray in self.strays}) != len(self.strays):
            message = "a direction that labels wait for is listed twice"
        else:
            return self
        raise ValueError(message)


def _row(model: type[BaseModel], names: Sequence[str], **parts: Any) -> Any:
    """Return the type of tuples of some of a model's fields, validated as the model does, in a fraction of the time that
    dictionaries take: a line has thousands. `parts`: the types of fields that are kept otherwise, or that the model lacks.
    """
    own = model.__pydantic_decorators__
    if own.validators or own.field_validators or own.root_validators or own.model_validators:
        message = f"{model.__name__} has validators of its own, which its fields alone would leave out"
        raise TypeError(message)
    return GenericAlias(tuple, tuple(parts[name] if name in parts else _kind(model, name) for name in names))


def _kind(model: type[BaseModel], name: str) -> Any:
    """Return the type of a model's field with its constraints."""
    field = model.model_fields[name]
    kind: Any = field.annotation
    for constraint in field.metadata:
        kind = Annotated[kind, constraint]
    return _unrounded(kind)


def _unrounded(kind: Any) -> Any:
    """Return a type without the rounding of measured numbers: storing them as ten-thousandths is that, and a call for
    each number of a line takes almost twice as long as the rest of its validation.
    """
    if get_origin(kind) is Annotated:
        base, *constraints = get_args(kind)
        for constraint in constraints:
            if constraint is not ROUNDED:
                base = Annotated[base, constraint]
        return base
    if get_origin(kind) in (Union, UnionType):
        return Union[tuple(map(_unrounded, get_args(kind)))]  # noqa: UP007
    if get_origin(kind) is tuple:
        return GenericAlias(tuple, tuple(map(_unrounded, get_args(kind))))
    return kind


def _some(kind: Any, most: int) -> Any:
    return Annotated[GenericAlias(list, (kind,)), FailFast(), Field(max_length=most)]


@lru_cache(maxsize=1)
def line() -> type[Entry]:
    """Return what validates a line."""
    protocol = Annotated[int, Field(ge=0)]
    evidence, quality = _row(Evidence, _EVIDENCE, protocol=protocol), _row(Quality, _QUALITY, protocol=protocol)
    labels = _some(_row(Label, FIELDS["labels"], created=Microseconds, evidence=evidence | None), _MOST_LABELS)
    parts = {"labels": labels, "quality": quality | None}
    of = Annotated[str, Field(max_length=600, pattern=r"^[^\x00]*$")]
    make: Any = create_model
    stray = make("_Stray", __base__=Model, direction=of, labels=labels)
    shared = make("_Protocol", __base__=Model, **{name: (_kind(Evidence, name), ...) for name in _PROTOCOL})
    found: type[Entry] = make(
        "_Line",
        __base__=Entry,
        directions=(_some(_row(_Direction, FIELDS["directions"], **parts), MAX_DIRECTIONS), []),
        composites=(_some(_row(_Composite, FIELDS["composites"], **parts), MAX_COMPOSITES), []),
        strays=(_some(stray, MAX_DIRECTIONS), []),
        protocols=(_some(shared, MAX_DIRECTIONS), []),
    )
    return found


def named(where: Where) -> Where:
    """Return a place in a line with the names of fields for their numbers: `directions.0.rank` for `directions.0.2`."""
    found: list[int | str] = []
    fields: tuple[str, ...] = ()
    inside = False  # of a list of values: the next number is one's
    for step in where:
        part = step
        if isinstance(part, int) and inside:
            part = fields[part] if part < len(fields) else part
            inside = False
        elif isinstance(part, int):
            inside = bool(fields)
        if isinstance(part, str):
            fields = FIELDS.get(part, ())
            inside = part in ("evidence", "quality")
        found.append(part)
    return tuple(found)


class _Written:
    """A line while it is written: its protocols, each once.

    They are told apart by the identity of their seeds first, which are long to compare; then as they are written, since what
    equals a number need not be one.
    """

    def __init__(self) -> None:
        self.protocols: list[tuple[Any, ...]] = []
        self._same: dict[tuple[float, int, int], int] = {}
        self._equal: dict[str, int] = {}

    def _measured(self, found: EvidenceData | QualityData) -> tuple[Any, ...]:
        *facts, scale, steps, seeds = found
        key = scale, steps, id(seeds)
        number = self._same.get(key)
        if number is None:
            number = self._same[key] = self._equal.setdefault(repr((scale, steps, seeds)), len(self.protocols))
            if number == len(self.protocols):
                self.protocols.append((scale, steps, seeds))
        return (*facts, number)

    def labels(self, labels: Sequence[LabelData]) -> list[tuple[Any, ...]]:
        return [label if label[-1] is None else (*label[:-1], self._measured(label[-1])) for label in labels]

    def slider(self, record: DirectionData | CompositeData) -> tuple[Any, ...]:
        *facts, labels, quality = record
        return (*facts, self.labels(labels), None if quality is None else self._measured(quality))


def document(entry: CheckpointData) -> dict[str, Any]:
    """Return a checkpoint as a line, to be validated or written."""
    facts = {"model_id": entry.model_id, "revision": entry.revision or None, "denoiser": entry.denoiser}
    facts |= {"component": entry.component, "licence": entry.licence, "path": entry.path}
    document: dict[str, Any] = {"checkpoint": facts}
    written = _Written()
    if entry.set is not None:
        document["set"] = entry.set.facts._asdict()
        document["layers"] = [layer._asdict() for layer in entry.set.layers]
        document["directions"] = list(map(written.slider, entry.set.directions))
        if entry.set.composites:
            document["composites"] = list(map(written.slider, entry.set.composites))
    if entry.strays:
        document["strays"] = [
            {"direction": name, "labels": written.labels(labels)} for name, labels in entry.strays.items()
        ]
    if written.protocols:
        document["protocols"] = [dict(zip(_PROTOCOL, protocol, strict=True)) for protocol in written.protocols]
    return document


class _Read:
    """A line while it is read: its protocols by number."""

    def __init__(self, protocols: Sequence[Any]) -> None:
        self.protocols = [tuple(getattr(protocol, name) for name in _PROTOCOL) for protocol in protocols]

    def labels(self, found: Sequence[tuple[Any, ...]]) -> list[LabelData]:
        # In one piece: millions of calls for a part of a label take as long as the rest.
        made: list[LabelData] = []
        for text, source, polarity, confidence, created, note, evidence in found:
            if evidence is not None:
                evidence = MAKE(EvidenceData, evidence[:-1] + self.protocols[evidence[-1]])  # noqa: PLW2901
            made.append(MAKE(LabelData, (text, source, polarity, confidence, created, note, evidence)))
        return made

    def quality(self, found: tuple[Any, ...] | None) -> Any:
        return None if found is None else MAKE(QualityData, found[:-1] + self.protocols[found[-1]])


def entry(found: Entry) -> CheckpointData:
    """Return what a validated line holds. Raises IndexError where it refers to a protocol that it does not have."""
    own = None
    read = _Read(found.protocols)
    if found.set is not None:
        one = found.set
        own = SetData(
            SetFacts(one.location, one.digest, one.created, one.builder, one.licence, one.repo, one.commit),
            [LayerData(layer.name, layer.kind, layer.width, layer.heads) for layer in found.layers],
            [
                MAKE(DirectionData, (*facts, read.labels(labels), read.quality(known)))
                for *facts, labels, known in found.directions
            ],
            [
                MAKE(CompositeData, (*facts, read.labels(labels), read.quality(known)))
                for *facts, labels, known in found.composites
            ],
        )
    checkpoint = found.checkpoint
    return CheckpointData(
        checkpoint.model_id,
        checkpoint.revision or "",
        checkpoint.denoiser,
        checkpoint.component,
        checkpoint.licence,
        checkpoint.path,
        own,
        {stray.direction: read.labels(stray.labels) for stray in found.strays},
    )
