"""A checkpoint as a line of JSON: its form, checked field by field, to and from plain values."""

from functools import lru_cache
from types import GenericAlias, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter
from typing_extensions import NotRequired, TypedDict

from eigenbank.registry.catalog.content import (
    CheckpointData,
    CompositeData,
    DirectionData,
    EvidenceData,
    LabelData,
    LayerData,
    QualityData,
    SetData,
    SetFacts,
    label_document,
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


class _Set(Model):
    location: Place
    digest: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
    created: Annotated[int, Field(gt=-(10**18), lt=10**18)]
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


def _plain(model: type[BaseModel], **parts: Any) -> Any:
    """Return the type of dictionaries with a model's fields, validated as the model does: a line has thousands of labels,
    and objects that nobody keeps take longer than all checks. `parts`: the types of fields that hold such dictionaries.
    A field that the model has a default for may be missing.
    """
    own = model.__pydantic_decorators__
    if own.validators or own.field_validators or own.root_validators or own.model_validators:
        message = f"{model.__name__} has validators of its own, which its fields alone would leave out"
        raise TypeError(message)
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        kind: Any = parts.get(name, field.annotation)
        for constraint in field.metadata:
            kind = Annotated[kind, constraint]
        kind = _unrounded(kind)
        fields[name] = kind if field.is_required() else NotRequired[kind]
    make: Any = TypedDict
    made = make(f"{model.__name__}Fields", fields)
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
    return kind


@lru_cache(maxsize=1)
def entries() -> TypeAdapter[dict[str, Any]]:
    """What validates the lines of checkpoints: as `_Entry` does, but into plain dictionaries."""
    labels = GenericAlias(list, (_plain(Label, evidence=_plain(Evidence) | None),))
    directions = GenericAlias(list, (_plain(_Direction, labels=labels, quality=_plain(Quality) | None),))
    composites = GenericAlias(list, (_plain(_Composite, labels=labels, quality=_plain(Quality) | None),))
    strays = GenericAlias(list, (_plain(_Stray, labels=labels),))
    fields = _plain(_Entry, directions=directions, composites=composites, strays=strays)
    entry: Any = Annotated[fields, AfterValidator(_consistent)]
    return TypeAdapter(entry)


def _slider_document(record: DirectionData | CompositeData) -> dict[str, Any]:
    document = record._asdict() | {"labels": [label_document(label) for label in record.labels]}
    quality = document.pop("quality")
    if isinstance(record, CompositeData):
        document = {"name": document.pop("bare"), **document}
    return document if quality is None else document | {"quality": quality._asdict()}


def document(entry: CheckpointData) -> dict[str, Any]:
    facts = {"model_id": entry.model_id, "revision": entry.revision or None, "denoiser": entry.denoiser}
    facts |= {"component": entry.component, "licence": entry.licence, "path": entry.path}
    document: dict[str, Any] = {"checkpoint": facts}
    if entry.set is not None:
        document["set"] = entry.set.facts._asdict()
        document["layers"] = [layer._asdict() for layer in entry.set.layers]
        document["directions"] = [_slider_document(record) for record in entry.set.directions]
        if entry.set.composites:
            document["composites"] = [_slider_document(record) for record in entry.set.composites]
    if entry.strays:
        document["strays"] = [
            {"direction": name, "labels": [label_document(label) for label in labels]}
            for name, labels in entry.strays.items()
        ]
    return document


def _label(found: dict[str, Any]) -> LabelData:
    get = found.get
    evidence = get("evidence")
    if evidence is not None:
        evidence = EvidenceData(*map(evidence.get, EvidenceData._fields))
    created = microseconds(found["created"])
    return LabelData(
        found["text"], found["source"], get("polarity", 1), get("confidence"), created, get("note"), evidence
    )


def _quality(found: dict[str, Any]) -> QualityData | None:
    quality = found.get("quality")
    return None if quality is None else QualityData(*map(quality.get, QualityData._fields))


def _labels(found: dict[str, Any]) -> list[LabelData]:
    return [_label(label) for label in found.get("labels", ())]


def entry(found: dict[str, Any]) -> CheckpointData:
    own = None
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
                _labels(record),
                _quality(record),
            )
            for record in found.get("directions", ())
        ]
        composites = [
            CompositeData(record["name"], _labels(record), _quality(record)) for record in found.get("composites", ())
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
        {stray["direction"]: _labels(stray) for stray in found.get("strays", ())},
    )
