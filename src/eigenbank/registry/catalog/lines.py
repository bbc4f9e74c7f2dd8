"""A checkpoint as a line of JSON: its form, checked field by field, to and from plain values."""

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import lru_cache, partial
from operator import itemgetter
from types import GenericAlias, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter
from typing_extensions import NotRequired, TypedDict

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
from eigenbank.schemas.layer import Kind

Place = Annotated[str, Field(min_length=1, max_length=10_000, pattern=r"^[^\x00]*$")]


class _Checkpoint(Checkpoint):
    path: Place | None = None


Moment = Annotated[int, Field(ge=microseconds(datetime.min), le=microseconds(datetime.max))]
"""A point in time in microseconds since 1970."""
_PROTOCOL = ("scale", "steps", "seeds")
"""The fields of evidence and qualities that many of a line have in common: kept once, and referred to by number."""


class _Set(Model):
    location: Place
    digest: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
    created: Moment
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
    labels: list[Label] = Field(default=[], max_length=10_000)
    quality: Quality | None = None


class _Composite(Model):
    name: CompositeName
    labels: list[Label] = Field(default=[], max_length=10_000)
    quality: Quality | None = None


class _Stray(Model):
    direction: Annotated[str, Field(max_length=600, pattern=r"^[^\x00]*$")]
    labels: list[Label] = Field(max_length=10_000)


class _Entry(Model):
    """A line: a checkpoint, its set where it has one, and the labels that wait for a direction."""

    checkpoint: _Checkpoint
    set: _Set | None = None
    layers: list[_Layer] = Field(default=[], max_length=MAX_LAYERS)
    directions: list[_Direction] = Field(default=[], max_length=MAX_DIRECTIONS)
    composites: list[_Composite] = Field(default=[], max_length=MAX_COMPOSITES)
    strays: list[_Stray] = Field(default=[], max_length=MAX_DIRECTIONS)
    protocols: list[Any] = Field(default=[], max_length=MAX_DIRECTIONS)


def _consistent(found: dict[str, Any]) -> dict[str, Any]:
    """Return a line as it was read. Raises ValueError where its parts contradict each other."""
    listed, records = found.get("layers", []), found.get("directions", [])
    layers = {layer.name for layer in listed}
    names = {(record["layer"], record["recipe"], record["rank"]) for record in records}
    composites = found.get("composites", [])
    if found.get("set") is None and listed:
        message = "there are layers, but no set"
    elif found.get("set") is None and composites:
        message = "there are composites, but no set"
    elif len({composite["name"] for composite in composites}) != len(composites):
        message = "a composite is listed twice"
    elif len(layers) != len(listed):
        message = "a layer is listed twice"
    elif len(names) != len(records):
        message = "a direction is listed twice"
    elif not {name[0] for name in names} <= layers:
        message = "a direction is of a layer that is not listed"
    else:
        return found
    raise ValueError(message)


def _plain(model: type[BaseModel], *, leaving: Collection[str] = (), **parts: Any) -> Any:
    """Return the type of dictionaries with a model's fields, validated as the model does: a line has thousands of labels,
    and objects that nobody keeps take longer than all checks. `parts`: the types of fields that hold such dictionaries, or
    that the model lacks; `leaving`: the fields to be left out. A field that the model has a default for may be missing.
    """
    own = model.__pydantic_decorators__
    if own.validators or own.field_validators or own.root_validators or own.model_validators:
        message = f"{model.__name__} has validators of its own, which its fields alone would leave out"
        raise TypeError(message)
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name in leaving:
            continue
        kind: Any = parts.pop(name, field.annotation)
        for constraint in field.metadata:
            kind = Annotated[kind, constraint]
        kind = _unrounded(kind)
        fields[name] = kind if field.is_required() else NotRequired[kind]
    make: Any = TypedDict
    made = make(f"{model.__name__}Fields", {**fields, **parts})
    made.__pydantic_config__ = model.model_config
    return made


def _unrounded(kind: Any) -> Any:
    """Return a type without the rounding of measured numbers: storing them as ten-thousandths is that, and a call for
    each number of a line takes as long as a fifth of its validation.
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


@lru_cache(maxsize=2)
def entries(*, whole: bool) -> TypeAdapter[dict[str, Any]]:
    """What validates the lines of checkpoints: as `_Entry` does, but into plain dictionaries.

    `whole`: before format 3, when labels and qualities held their protocols themselves, and times were texts.
    """
    if whole:
        evidence, quality, label = _plain(Evidence), _plain(Quality), partial(_plain, Label)
    else:
        own: dict[str, Any] = {"leaving": _PROTOCOL, "protocol": Annotated[int, Field(ge=0)]}
        evidence, quality, label = (
            _plain(Evidence, **own),
            _plain(Quality, **own),
            partial(_plain, Label, created=Moment),
        )
    labels = GenericAlias(list, (label(evidence=evidence | None),))
    directions = GenericAlias(list, (_plain(_Direction, labels=labels, quality=quality | None),))
    composites = GenericAlias(list, (_plain(_Composite, labels=labels, quality=quality | None),))
    strays = GenericAlias(list, (_plain(_Stray, labels=labels),))
    protocols = GenericAlias(list, (_plain(Evidence, leaving=Evidence.model_fields.keys() - set(_PROTOCOL)),))
    fields = _plain(_Entry, directions=directions, composites=composites, strays=strays, protocols=protocols)
    entry: Any = Annotated[fields, AfterValidator(_consistent)]
    return TypeAdapter(entry)


class _Written:
    """A line while it is written: its protocols, each once."""

    def __init__(self) -> None:
        self.protocols: dict[tuple[Any, ...], int] = {}

    def _measured(self, fields: Sequence[str], found: EvidenceData | QualityData) -> dict[str, Any]:
        document: dict[str, Any] = dict(zip(fields, found, strict=False))  # the protocol's are the last
        document["protocol"] = self.protocols.setdefault(found[-len(_PROTOCOL) :], len(self.protocols))
        return document

    def label(self, label: LabelData) -> dict[str, Any]:
        # Spelled out: of millions of labels, a loop over their fields takes twice as long.
        text, source, polarity, confidence, created, note, evidence = label
        document: dict[str, Any] = {"text": text, "source": source, "polarity": polarity}
        if confidence is not None:
            document["confidence"] = confidence
        document["created"] = created
        if note is not None:
            document["note"] = note
        if evidence is not None:
            document["evidence"] = self._measured(_EVIDENCE, evidence)
        return document

    def slider(self, record: DirectionData | CompositeData) -> dict[str, Any]:
        document = record._asdict() | {"labels": [self.label(label) for label in record.labels]}
        quality = document.pop("quality")
        if isinstance(record, CompositeData):
            document = {"name": document.pop("bare"), **document}
        if quality is not None:
            document["quality"] = self._measured(_QUALITY, quality)
        return document


def document(entry: CheckpointData) -> dict[str, Any]:
    facts = {"model_id": entry.model_id, "revision": entry.revision or None, "denoiser": entry.denoiser}
    facts |= {"component": entry.component, "licence": entry.licence, "path": entry.path}
    document: dict[str, Any] = {"checkpoint": facts}
    line = _Written()
    if entry.set is not None:
        document["set"] = entry.set.facts._asdict()
        document["layers"] = [layer._asdict() for layer in entry.set.layers]
        document["directions"] = [line.slider(record) for record in entry.set.directions]
        if entry.set.composites:
            document["composites"] = [line.slider(record) for record in entry.set.composites]
    if entry.strays:
        document["strays"] = [
            {"direction": name, "labels": [line.label(label) for label in labels]}
            for name, labels in entry.strays.items()
        ]
    if line.protocols:
        document["protocols"] = [dict(zip(_PROTOCOL, protocol, strict=True)) for protocol in line.protocols]
    return document


class _Read:
    """A line while it is read: its protocols by number."""

    def __init__(self, protocols: Sequence[dict[str, Any]]) -> None:
        self.protocols = [tuple(protocol[name] for name in _PROTOCOL) for protocol in protocols]

    def _protocol(self, found: dict[str, Any]) -> tuple[Any, ...]:
        number = found.get("protocol")
        return self.protocols[number] if number is not None else tuple(found[name] for name in _PROTOCOL)

    def labels(self, found: dict[str, Any]) -> list[LabelData]:
        # In one piece: millions of calls for a part of a label take as long as the rest.
        made: list[LabelData] = []
        for label in found.get("labels", ()):
            evidence = label.get("evidence")
            if evidence is not None:
                try:
                    facts = _ALL_EVIDENCE(evidence)
                except KeyError:  # some are left out: not written by us, but allowed
                    facts = tuple(map(evidence.get, _EVIDENCE))
                evidence = MAKE(EvidenceData, facts + self._protocol(evidence))
            created = label["created"]
            if type(created) is not int:
                created = microseconds(created)
            get = label.get
            made.append(
                MAKE(
                    LabelData,
                    (
                        label["text"],
                        label["source"],
                        get("polarity", 1),
                        get("confidence"),
                        created,
                        get("note"),
                        evidence,
                    ),
                )
            )
        return made

    def quality(self, found: dict[str, Any]) -> QualityData | None:
        quality = found.get("quality")
        if quality is None:
            return None
        return QualityData(*map(quality.get, _QUALITY), *self._protocol(quality))


_EVIDENCE = EvidenceData._fields[: -len(_PROTOCOL)]
_QUALITY = QualityData._fields[: -len(_PROTOCOL)]
_ALL_EVIDENCE = itemgetter(*_EVIDENCE)


def entry(found: dict[str, Any]) -> CheckpointData:
    """Return what a validated line holds. Raises IndexError where it refers to a protocol that it does not have."""
    own = None
    line = _Read(found.get("protocols", ()))
    if found.get("set") is not None:
        one = found["set"]
        facts = SetFacts(one.location, one.digest, one.created, one.builder, one.licence, one.repo, one.commit)
        layers = [LayerData(layer.name, layer.kind, layer.width, layer.heads) for layer in found.get("layers", ())]
        directions = [
            DirectionData(
                record["layer"],
                record["recipe"],
                record["rank"],
                record["eigenvalue"],
                record["share"],
                record["gap"],
                line.labels(record),
                line.quality(record),
            )
            for record in found.get("directions", ())
        ]
        composites = [
            CompositeData(record["name"], line.labels(record), line.quality(record))
            for record in found.get("composites", ())
        ]
        own = SetData(facts, layers, directions, composites)
    checkpoint = found["checkpoint"]
    return CheckpointData(
        checkpoint.model_id,
        checkpoint.revision or "",
        checkpoint.denoiser,
        checkpoint.component,
        checkpoint.licence,
        checkpoint.path,
        own,
        {stray["direction"]: line.labels(stray) for stray in found.get("strays", ())},
    )
