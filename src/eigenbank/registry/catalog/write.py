"""Putting sets in. Every function works inside the caller's transaction."""

import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from eigenbank.progress import Progress, no_progress
from eigenbank.registry.catalog import fts
from eigenbank.registry.catalog.content import (
    CheckpointData,
    CompositeData,
    DirectionData,
    LabelData,
    LayerData,
    distinct,
)
from eigenbank.registry.catalog.dump import labels_by_name, read_strays, stray_text
from eigenbank.registry.catalog.models import (
    CheckpointTable,
    DirectionTable,
    LabelTable,
    LayerTable,
    NameTable,
    RecipeTable,
    SetTable,
    SpectrumTable,
    StrayTable,
)
from eigenbank.registry.catalog.numbering import Numbering
from eigenbank.registry.catalog.parts import PARTS
from eigenbank.registry.catalog.sql import insert_rows, path_key
from eigenbank.registry.catalog.stored import understood
from eigenbank.registry.catalog.write_labels import Labelled, insert_labels, quality_rows

_SET_ID = select(SetTable.id)
_OF_CHECKPOINT = _SET_ID.where(SetTable.checkpoint_id == bindparam("checkpoint"))
_CHECKPOINT = select(CheckpointTable.id).where(
    CheckpointTable.model_id == bindparam("model"), CheckpointTable.revision == bindparam("revision")
)
_DELETE_STRAYS = delete(StrayTable).where(StrayTable.checkpoint_id == bindparam("checkpoint"))
_COUNT = update(SetTable).where(SetTable.id == bindparam("set")).values(labels=bindparam("count"))
_TEXT, _TEXT_AND_SOURCE, _SPECTRUM = itemgetter(0), itemgetter(0, 1), itemgetter(0, 1)
_SELDOM = 200_000
"""After so many new objects the garbage collector looks for cycles while a catalog is filled."""


def add(numbers: Numbering, entry: CheckpointData) -> None:
    """Put a checkpoint's set in, in the place of the one it had. People's labels are carried over; those whose direction
    the new set lacks wait for one that has it.
    """
    checkpoint_id = put_checkpoint(numbers, entry)
    waiting: dict[str, list[LabelData]] = {name: list(labels) for name, labels in entry.strays.items()}
    for name, labels in _take_out(numbers.connection, checkpoint_id).items():
        waiting.setdefault(name, []).extend(label for label in labels if label.human)
    _put_set(numbers, checkpoint_id, entry, waiting)


def replace(numbers: Numbering, entry: CheckpointData) -> None:
    """Put a checkpoint's set and strays in as they are, whatever was there before."""
    checkpoint_id = put_checkpoint(numbers, entry)
    _take_out(numbers.connection, checkpoint_id)
    _put_set(numbers, checkpoint_id, entry, {name: list(labels) for name, labels in entry.strays.items()})


def remove(numbers: Numbering, model_id: str, revision: str) -> int:
    """Take a checkpoint's set out. People's labels wait for one that has their directions; without any the checkpoint goes,
    too. Returns how many wait.
    """
    connection = numbers.connection
    key = {"model": model_id, "revision": revision}
    checkpoint_id = connection.execute(_CHECKPOINT, key).scalar_one()
    found = _take_out(connection, checkpoint_id)
    strays = {name: kept for name, labels in found.items() if (kept := [label for label in labels if label.human])}
    if not strays:
        connection.execute(delete(CheckpointTable).where(CheckpointTable.id == checkpoint_id))
        fts.remove(connection, "models", checkpoint_id, model_id)
    return _put_strays(numbers, checkpoint_id, strays)


@understood()
def waiting(connection: Connection, model_id: str, revision: str) -> int:
    """How many of people's labels of a checkpoint wait for their directions."""
    checkpoint_id = connection.execute(_CHECKPOINT, {"model": model_id, "revision": revision}).scalar_one()
    return sum(map(len, read_strays(connection, checkpoint_id).values()))


@contextmanager
def filling(connection: Connection, progress: Progress = no_progress) -> Iterator[Numbering]:
    """Where the catalog is still empty, make the indexes that nothing here needs after the rows: sorting all entries at
    once takes a fraction of the time of putting each in its place.
    """
    empty = connection.execute(select(DirectionTable.id).limit(1)).first() is None
    thresholds = gc.get_threshold()
    tables: list[Any] = [DirectionTable.__table__, LabelTable.__table__]
    indexes = [index for table in tables for index in sorted(table.indexes, key=lambda index: str(index.name))]
    if empty:
        for index in indexes:
            index.drop(connection)
    # Millions of short-lived rows pass, none of them part of a cycle: looking for cycles would take as long as the rest.
    gc.set_threshold(thresholds[0] and max(thresholds[0], _SELDOM), *thresholds[1:])
    try:
        yield Numbering(connection)
    finally:
        gc.set_threshold(*thresholds)
    if empty:
        for done, index in enumerate(indexes, 1):
            index.create(connection)
            progress("indexes", done, len(indexes))


def _put_set(
    numbers: Numbering, checkpoint_id: int, entry: CheckpointData, waiting: dict[str, list[LabelData]]
) -> None:
    """Insert the set with the labels that wait for its directions; keep those that go on waiting."""
    if entry.set is not None:
        set_id = numbers.take(SetTable)
        row = (set_id, checkpoint_id, *entry.set.facts, len(entry.set.directions), 0)
        insert_rows(numbers.connection, SetTable, [row])
        layers = _layers(numbers, set_id, entry.set.layers)
        labels = _directions(numbers, layers, entry.set.directions, waiting)
        labels += _composites(numbers, set_id, entry.set.composites, waiting)
        numbers.connection.execute(_COUNT, {"set": set_id, "count": labels})
    _put_strays(numbers, checkpoint_id, waiting)


def _put_strays(numbers: Numbering, checkpoint_id: int, waiting: Mapping[str, list[LabelData]]) -> int:
    """Keep labels that wait for their direction, by its name. Returns how many."""
    left = [(name, stray_text(label)) for name, labels in waiting.items() for label in distinct(labels)]
    if left:
        first = numbers.take(StrayTable, len(left))
        rows = [(first + index, checkpoint_id, name, text) for index, (name, text) in enumerate(left)]
        insert_rows(numbers.connection, StrayTable, rows)
    return len(left)


def set_published(connection: Connection, digest: str, repo: str, commit: str) -> bool:
    """Note where the set of a manifest digest was published. Returns whether there is one."""
    statement = update(SetTable).where(SetTable.digest == digest).values({"repo": repo, "commit": commit})
    return bool(connection.execute(statement).rowcount)


def put_checkpoint(numbers: Numbering, entry: CheckpointData) -> int:
    """Insert a checkpoint, or bring the one of that model and revision up to date. Returns its number."""
    values: dict[str, Any] = {"denoiser": entry.denoiser, "component": entry.component, "licence": entry.licence}
    if entry.path is not None:
        values["path"] = path_key(entry.path)
    connection = numbers.connection
    found: int | None = connection.execute(_CHECKPOINT, {"model": entry.model_id, "revision": entry.revision}).scalar()
    if found is not None:
        connection.execute(update(CheckpointTable).where(CheckpointTable.id == found).values(values))
        return found
    number = numbers.take(CheckpointTable)
    values |= {"id": number, "model_id": entry.model_id, "revision": entry.revision}
    connection.execute(insert(CheckpointTable), values)
    fts.add(connection, "models", [(number, entry.model_id)])
    return number


@understood()
def _take_out(connection: Connection, checkpoint_id: int) -> dict[str, list[LabelData]]:
    """Remove the checkpoint's set and strays. Returns all labels by direction name, strays included."""
    found = read_strays(connection, checkpoint_id)
    connection.execute(_DELETE_STRAYS, {"checkpoint": checkpoint_id})
    set_id = connection.execute(_OF_CHECKPOINT, {"checkpoint": checkpoint_id}).scalar()
    if set_id is not None:
        for name, labels in labels_by_name(connection, set_id).items():
            found.setdefault(name, []).extend(labels)
        connection.execute(delete(SetTable).where(SetTable.id == set_id))
    return found


def _layers(numbers: Numbering, set_id: int, layers: Sequence[LayerData]) -> dict[str, int]:
    """Insert the layers. Returns their numbers by name."""
    names = numbers.strings(NameTable, "name", [layer.name for layer in layers], words="names")
    first = numbers.take(LayerTable, len(layers))
    rows = [
        (first + index, set_id, names[layer.name], layer.kind, layer.width, layer.heads)
        for index, layer in enumerate(layers)
    ]
    insert_rows(numbers.connection, LayerTable, rows)
    return {layer.name: first + index for index, layer in enumerate(layers)}


def _directions(
    numbers: Numbering,
    layers: Mapping[str, int],
    records: Sequence[DirectionData],
    waiting: dict[str, list[LabelData]],
) -> int:
    """Insert the directions, grouped by spectrum and in order of rank, with their labels and those that wait for them,
    which are taken from there. Returns how many labels.
    """
    recipes = numbers.strings(RecipeTable, "slug", [record.recipe for record in records])
    qualities = quality_rows(numbers, [record.quality for record in records])
    places = [(layers[record.layer], recipes[record.recipe], record.rank) for record in records]
    sizes = Counter(map(_SPECTRUM, places))
    spectra = dict(zip(sorted(sizes), range(numbers.take(SpectrumTable, len(sizes)), 2**63), strict=False))
    directions: list[tuple[Any, ...]] = []
    labelled: list[Labelled] = []
    first, nothing = numbers.take(DirectionTable, len(records)), numbers.nothing
    for number, index in enumerate(sorted(range(len(records)), key=places.__getitem__), first):
        record, place = records[index], places[index]
        own, counted = _own_labels(record, waiting, nothing)
        facts = record[2:6]  # by place: a million times, the names take longer
        directions.append((number, spectra[place[:2]], *facts, *counted, *qualities[index], nothing))
        labelled.append((number, place[2], own))
    insert_rows(numbers.connection, SpectrumTable, [(spectra[place], *place, sizes[place]) for place in spectra])
    insert_rows(numbers.connection, DirectionTable, directions)
    return insert_labels(numbers, labelled)


def _composites(
    numbers: Numbering, set_id: int, records: Sequence[CompositeData], waiting: dict[str, list[LabelData]]
) -> int:
    """Insert the composites behind the set's directions, with their labels and those that wait for them, which are taken
    from there. Returns how many labels.
    """
    if not records:
        return 0
    layer, spectrum = numbers.take(LayerTable), numbers.take(SpectrumTable)
    insert_rows(numbers.connection, LayerTable, [(layer, set_id, None, None, None, None)])
    insert_rows(numbers.connection, SpectrumTable, [(spectrum, layer, None, len(records))])
    qualities = quality_rows(numbers, [record.quality for record in records])
    composites: list[tuple[Any, ...]] = []
    labelled: list[Labelled] = []
    first, nothing = numbers.take(DirectionTable, len(records)), numbers.nothing
    for number, (record, quality) in enumerate(zip(records, qualities, strict=True), first):
        own, counted = _own_labels(record, waiting, nothing)
        composites.append((number, spectrum, *(nothing,) * 4, *counted, *quality, record.bare))
        labelled.append((number, None, own))
    insert_rows(numbers.connection, DirectionTable, composites)
    return insert_labels(numbers, labelled)


def _own_labels(
    record: DirectionData | CompositeData, waiting: dict[str, list[LabelData]], nothing: Any
) -> tuple[list[LabelData], tuple[int, Any]]:
    """The labels of a record with those that wait for it, each once; and what is derived of them: count and confidence,
    `nothing` where none says one.
    """
    own = record.labels
    if waiting:
        own = own + waiting.pop(record.name, [])
    if not own:
        return own, (0, nothing)
    if len(own) > 1 and len(set(map(_TEXT, own))) < len(own) and len(set(map(_TEXT_AND_SOURCE, own))) < len(own):
        own = distinct(own)
    sure = [label[3] for label in own if label[3] is not None]
    return own, (len(own), round(max(sure) * PARTS) if sure else nothing)
