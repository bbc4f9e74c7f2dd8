"""Putting labels and qualities in, and a person's off again. Every function works inside the caller's transaction."""

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from eigenbank.registry.catalog.content import LabelData, QualityData, label_data
from eigenbank.registry.catalog.models import (
    DirectionTable,
    LabelTable,
    LayerTable,
    ProtocolTable,
    SetTable,
    SourceTable,
    SpectrumTable,
    TextTable,
)
from eigenbank.registry.catalog.numbering import Numbering
from eigenbank.registry.catalog.parts import PARTS
from eigenbank.registry.catalog.sql import insert_rows
from eigenbank.registry.catalog.stored import QUALITY_COLUMNS
from eigenbank.schemas import Label

Labelled = tuple[int, int | None, list[LabelData]]
"""The number of a direction or composite, its rank, where it has one, and its labels."""


def quality_rows(numbers: Numbering, qualities: Sequence[QualityData | None]) -> list[tuple[Any, ...]]:
    """Return what qualities are stored as (see `stored.QUALITY_COLUMNS`), their sources and protocols put in."""
    sources = numbers.strings(SourceTable, "name", sorted({quality[0] for quality in qualities if quality is not None}))
    protocols = _Protocols(numbers)
    # `parts`, spelled out: a call for each number would take as long as the rest.
    nothing, nearest, whole = numbers.nothing, round, float(PARTS)
    unknown = (nothing,) * len(QUALITY_COLUMNS)
    found: list[tuple[Any, ...]] = []
    for quality in qualities:
        if quality is None:
            found.append(unknown)
            continue
        source, effect, selectivity, consistency, linearity, between, locality, drift, scale, steps, seeds = quality
        low, high = between or (None, None)
        kept = (
            sources[source],
            protocols.number(scale, steps, seeds),
            nothing if effect is None else nearest(effect * whole),
            nothing if selectivity is None else nearest(selectivity * whole),
            nothing if consistency is None else nearest(consistency * whole),
            nothing if linearity is None else nearest(linearity * whole),
            nothing if low is None else nearest(low * whole),
            nothing if high is None else nearest(high * whole),
            nothing if locality is None else nearest(locality * whole),
            nothing if drift is None else nearest(drift * whole),
        )
        found.append(kept)
    return found


def insert_labels(numbers: Numbering, labelled: Sequence[Labelled]) -> int:
    """Insert the labels of directions and composites. The caller keeps the counts. Returns how many labels."""
    labels = [label for _, _, own in labelled for label in own]
    if not labels:
        return 0
    names = {label[0] for label in labels}
    names.update([evidence[4] for label in labels if (evidence := label[6]) is not None and evidence[4]])
    texts = label_texts(numbers, sorted(names))
    sources = numbers.strings(SourceTable, "name", sorted({label[1] for label in labels}))
    protocols = _Protocols(numbers)
    rows: list[tuple[Any, ...]] = []
    nothing, nearest, whole = numbers.nothing, round, float(PARTS)
    unmeasured = (nothing,) * 8
    for number, rank, own in labelled:
        place = nothing if rank is None else rank
        for text, source, polarity, confidence, created, note, evidence in own:
            said = nothing if note is None else note
            sure = nothing if confidence is None else nearest(confidence * whole)
            if evidence is None:
                facts = (number, texts[text], sources[source], polarity, sure, created, said)
                rows.append((*facts, *unmeasured, place))
                continue
            effect, selectivity, consistency, asymmetry, other, other_effect, null, scale, steps, seeds = evidence
            row = (
                number,
                texts[text],
                sources[source],
                polarity,
                sure,
                created,
                said,
                protocols.number(scale, steps, seeds),
                nearest(effect * whole),
                nearest(selectivity * whole),
                nearest(consistency * whole),
                nothing if asymmetry is None else nearest(asymmetry * whole),
                texts[other] if other else nothing,
                nothing if other_effect is None else nearest(other_effect * whole),
                nothing if null is None else nearest(null * whole),
                place,
            )
            rows.append(row)
    # In the order of the key, which no two share: pages are then filled one after the other.
    rows.sort()
    insert_rows(numbers.connection, LabelTable, rows)
    return len(rows)


def label_texts(numbers: Numbering, texts: Collection[str]) -> dict[str, int]:
    """Return the numbers of label texts, adding those that are new to the table and to the word index."""
    return numbers.strings(TextTable, "text", texts, words="texts")


class _Protocols:
    """The numbers of the protocols that one set's evidence and qualities end with, those put in that are new.

    They are told apart by the identity of their seeds first: most share few lists of those, which are long to compare.
    """

    def __init__(self, numbers: Numbering) -> None:
        self._numbers = numbers
        self._same: dict[tuple[float, int, int], int] = {}
        self._equal: dict[tuple[float, int, tuple[int, ...]], int] = {}

    def number(self, scale: float, steps: int, seeds: tuple[int, ...]) -> int:
        """Return a protocol's number. The seeds must live as long as this does."""
        key = (scale, steps, id(seeds))
        number = self._same.get(key)
        if number is None:
            number = self._equal.get((scale, steps, seeds))
            if number is None:
                number = self._equal[scale, steps, seeds] = _protocol(self._numbers, scale, steps, seeds)
            self._same[key] = number
        return number


def _protocol(numbers: Numbering, scale: float, steps: int, seeds: tuple[int, ...]) -> int:
    text = json.dumps(list(seeds), separators=(",", ":"))
    digest = hashlib.sha256(f"{float(scale)!r} {steps} {text}".encode()).hexdigest()
    known = numbers.known(ProtocolTable, "digest", [digest])
    if digest not in known:
        known[digest] = numbers.take(ProtocolTable)
        insert_rows(numbers.connection, ProtocolTable, [(known[digest], scale, steps, digest, text)])
    return known[digest]


def put_label(connection: Connection, direction_id: int, label: Label) -> None:
    """Give a direction a label, in the place of the one of the same text and source."""
    numbers = Numbering(connection)
    texts = label_texts(numbers, [label.text])
    sources = numbers.strings(SourceTable, "name", [label.source])
    remove_label(connection, direction_id, texts[label.text], sources[label.source])
    rank = connection.execute(select(DirectionTable.rank).where(DirectionTable.id == direction_id)).scalar_one()
    insert_labels(numbers, [(direction_id, rank, [label_data(label)])])
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
