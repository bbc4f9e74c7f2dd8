"""Changing the catalog: sets and people's labels. Every function works inside the caller's transaction."""

import gc
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from eigenbank.registry.catalog import fts
from eigenbank.registry.catalog.content import CheckpointData, DirectionData, LabelData, LayerData, distinct, label_data
from eigenbank.registry.catalog.dump import labels_by_name, read_strays, stray_text
from eigenbank.registry.catalog.models import (
    CheckpointTable,
    DirectionTable,
    LabelTable,
    LayerTable,
    NameTable,
    ProtocolTable,
    RecipeTable,
    SetTable,
    SourceTable,
    SpectrumTable,
    StrayTable,
    TextTable,
)
from eigenbank.registry.catalog.sql import among, insert_rows, intern, next_id, path_key, rows_of
from eigenbank.schemas import Label

_SET_ID = select(SetTable.id)
_PROTOCOLS = select(ProtocolTable.digest, ProtocolTable.id).where(among(ProtocolTable.digest, "digests"))
_OF_CHECKPOINT = _SET_ID.where(SetTable.checkpoint_id == bindparam("checkpoint"))
_CHECKPOINT = select(CheckpointTable.id).where(
    CheckpointTable.model_id == bindparam("model"), CheckpointTable.revision == bindparam("revision")
)
_DELETE_STRAYS = delete(StrayTable).where(StrayTable.checkpoint_id == bindparam("checkpoint"))
_COUNT = update(SetTable).where(SetTable.id == bindparam("set")).values(labels=bindparam("count"))
_SELDOM = 200_000
"""After so many new objects the garbage collector looks for cycles while a catalog is filled."""


def add(connection: Connection, entry: CheckpointData) -> None:
    """Put a checkpoint's set in, in the place of the one it had. People's labels are carried over; those whose direction
    the new set lacks wait for one that has it.
    """
    checkpoint_id = put_checkpoint(connection, entry)
    waiting: dict[str, list[LabelData]] = {name: list(labels) for name, labels in entry.strays.items()}
    for name, labels in _take_out(connection, checkpoint_id).items():
        waiting.setdefault(name, []).extend(label for label in labels if label.human)
    _put_set(connection, checkpoint_id, entry, waiting)


def replace(connection: Connection, entry: CheckpointData) -> None:
    """Put a checkpoint's set and strays in as they are, whatever was there before."""
    checkpoint_id = put_checkpoint(connection, entry)
    _take_out(connection, checkpoint_id)
    _put_set(connection, checkpoint_id, entry, {name: list(labels) for name, labels in entry.strays.items()})


@contextmanager
def filling(connection: Connection) -> Iterator[None]:
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
        yield
    finally:
        gc.set_threshold(*thresholds)
    if empty:
        for index in indexes:
            index.create(connection)


def _put_set(
    connection: Connection, checkpoint_id: int, entry: CheckpointData, waiting: dict[str, list[LabelData]]
) -> None:
    """Insert the set with the labels that wait for its directions; keep those that go on waiting."""
    if entry.set is not None:
        set_id = next_id(connection, SetTable)
        row = (set_id, checkpoint_id, *entry.set.facts, len(entry.set.directions), 0)
        insert_rows(connection, SetTable, [row])
        layers = _layers(connection, set_id, entry.set.layers)
        labels = _directions(connection, layers, entry.set.directions, waiting)
        connection.execute(_COUNT, {"set": set_id, "count": labels})
    left = [(name, stray_text(label)) for name, labels in waiting.items() for label in distinct(labels)]
    if left:
        first = next_id(connection, StrayTable)
        rows = [(first + index, checkpoint_id, name, text) for index, (name, text) in enumerate(left)]
        insert_rows(connection, StrayTable, rows)


def set_published(connection: Connection, digest: str, repo: str, commit: str) -> bool:
    """Note where the set of a manifest digest was published. Returns whether there is one."""
    statement = update(SetTable).where(SetTable.digest == digest).values({"repo": repo, "commit": commit})
    return bool(connection.execute(statement).rowcount)


def put_checkpoint(connection: Connection, entry: CheckpointData) -> int:
    """Insert a checkpoint, or bring the one of that model and revision up to date. Returns its number."""
    values: dict[str, Any] = {"denoiser": entry.denoiser, "component": entry.component, "licence": entry.licence}
    if entry.path is not None:
        values["path"] = path_key(entry.path)
    found: int | None = connection.execute(_CHECKPOINT, {"model": entry.model_id, "revision": entry.revision}).scalar()
    if found is not None:
        connection.execute(update(CheckpointTable).where(CheckpointTable.id == found).values(values))
        return found
    number = next_id(connection, CheckpointTable)
    values |= {"id": number, "model_id": entry.model_id, "revision": entry.revision}
    connection.execute(insert(CheckpointTable), values)
    fts.add(connection, "models", [(number, entry.model_id)])
    return number


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


def _layers(connection: Connection, set_id: int, layers: Sequence[LayerData]) -> dict[str, int]:
    """Insert the layers. Returns their numbers by name."""
    before = next_id(connection, NameTable)
    names = intern(connection, NameTable, "name", (layer.name for layer in layers))
    fts.add(connection, "names", ((number, name) for name, number in names.items() if number >= before))
    first = next_id(connection, LayerTable)
    rows = [
        (first + index, set_id, names[layer.name], layer.kind, layer.width, layer.heads)
        for index, layer in enumerate(layers)
    ]
    insert_rows(connection, LayerTable, rows)
    return {layer.name: first + index for index, layer in enumerate(layers)}


def _directions(
    connection: Connection,
    layers: Mapping[str, int],
    records: Sequence[DirectionData],
    waiting: dict[str, list[LabelData]],
) -> int:
    """Insert the directions, grouped by spectrum and in order of rank, with their labels and those that wait for them,
    which are taken from there. Returns how many labels.
    """
    recipes = intern(connection, RecipeTable, "slug", (record.recipe for record in records))
    groups: dict[tuple[int, int], list[DirectionData]] = {}
    for record in records:
        groups.setdefault((layers[record.layer], recipes[record.recipe]), []).append(record)
    spectrum, number = next_id(connection, SpectrumTable), next_id(connection, DirectionTable)
    spectra: list[tuple[Any, ...]] = []
    directions: list[tuple[Any, ...]] = []
    labels: list[tuple[int, LabelData]] = []
    for (layer, recipe), group in sorted(groups.items()):
        spectra.append((spectrum, layer, recipe, len(group)))
        for record in sorted(group, key=lambda record: record.rank):
            own = record.labels
            if waiting:
                own = own + waiting.pop(record.name, [])
            if len(own) > 1:
                own = distinct(own)
            best = max((label.confidence for label in own if label.confidence is not None), default=None)
            directions.append(
                (number, spectrum, record.rank, record.eigenvalue, record.share, record.gap, len(own), best)
            )
            labels.extend([(number, label) for label in own])
            number += 1
        spectrum += 1
    insert_rows(connection, SpectrumTable, spectra)
    insert_rows(connection, DirectionTable, directions)
    insert_labels(connection, labels)
    return len(labels)


def insert_labels(connection: Connection, labels: list[tuple[int, LabelData]]) -> None:
    """Insert labels, given with the number of their direction. The caller keeps the counts."""
    if not labels:
        return
    names = {label.text for _, label in labels}
    evidences = [label.evidence for _, label in labels if label.evidence is not None]
    names |= {evidence.runner_up for evidence in evidences if evidence.runner_up}
    texts = intern_texts(connection, sorted(names))
    sources = intern(connection, SourceTable, "name", sorted({label.source for _, label in labels}))
    protocols = _protocols(connection, {evidence[7:] for evidence in evidences})
    rows: list[tuple[Any, ...]] = []
    for number, (text, source, polarity, confidence, created, note, evidence) in labels:
        measured: tuple[Any, ...] = (None,) * 8
        if evidence is not None:
            effect, selectivity, consistency, asymmetry, runner_up, runner_up_effect, null, *_ = evidence
            other = texts[runner_up] if runner_up else None
            protocol = protocols[evidence[7:]]
            measured = (protocol, effect, selectivity, consistency, asymmetry, other, runner_up_effect, null)
        rows.append((number, texts[text], sources[source], polarity, confidence, created, note, *measured))
    # In the order of the key, which no two share: pages are then filled one after the other.
    rows.sort()
    insert_rows(connection, LabelTable, rows)


def intern_texts(connection: Connection, texts: Iterable[str]) -> dict[str, int]:
    """Return the numbers of label texts, adding those that are new to the table and to the word index."""
    first = next_id(connection, TextTable)
    numbers = intern(connection, TextTable, "text", texts)
    fts.add(connection, "texts", ((number, text) for text, number in numbers.items() if number >= first))
    return numbers


Protocol = tuple[float, int, tuple[int, ...]]
"""Scale, steps and seeds of a measurement, which evidence ends with."""


def _protocols(connection: Connection, protocols: Iterable[Protocol]) -> dict[Protocol, int]:
    digests: dict[str, Protocol] = {}
    seeds_of: dict[str, str] = {}
    for scale, steps, seeds in sorted(protocols):
        text = json.dumps(list(seeds), separators=(",", ":"))
        digest = hashlib.sha256(f"{float(scale)!r} {steps} {text}".encode()).hexdigest()
        digests[digest] = (scale, steps, seeds)
        seeds_of[digest] = text
    if not digests:
        return {}
    known: dict[str, int] = dict(rows_of(connection, _PROTOCOLS, {"digests": list(digests)}))
    missing = [digest for digest in digests if digest not in known]
    if missing:
        first = next_id(connection, ProtocolTable)
        known.update({digest: first + index for index, digest in enumerate(missing)})
        rows = [(known[digest], *digests[digest][:2], digest, seeds_of[digest]) for digest in missing]
        insert_rows(connection, ProtocolTable, rows)
    return {protocol: known[digest] for digest, protocol in digests.items()}


def put_label(connection: Connection, direction_id: int, label: Label) -> None:
    """Give a direction a label, in the place of the one of the same text and source."""
    texts = intern_texts(connection, [label.text])
    sources = intern(connection, SourceTable, "name", [label.source])
    remove_label(connection, direction_id, texts[label.text], sources[label.source])
    insert_labels(connection, [(direction_id, label_data(label))])
    recount(connection, direction_id)


def remove_label(connection: Connection, direction_id: int, text_id: int, source_id: int) -> bool:
    """Take one label off a direction. Returns whether there was one."""
    removed = connection.execute(
        delete(LabelTable).where(
            LabelTable.direction_id == direction_id, LabelTable.text_id == text_id, LabelTable.source_id == source_id
        )
    ).rowcount
    recount(connection, direction_id)
    return bool(removed)


def recount(connection: Connection, direction_id: int) -> None:
    """Bring a direction's derived columns, and its set's, up to date with its labels."""
    before, set_id = connection.execute(
        select(DirectionTable.labels, LayerTable.set_id)
        .join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
        .join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
        .where(DirectionTable.id == direction_id)
    ).one()
    count, best = connection.execute(
        select(func.count(), func.max(LabelTable.confidence)).where(LabelTable.direction_id == direction_id)
    ).one()
    connection.execute(
        update(DirectionTable).where(DirectionTable.id == direction_id).values(labels=count, confidence=best)
    )
    connection.execute(update(SetTable).where(SetTable.id == set_id).values(labels=SetTable.labels + count - before))
