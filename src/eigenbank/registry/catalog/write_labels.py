"""Putting labels and qualities in, and a person's off again. Every function works inside the caller's transaction."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from eigenbank.registry.catalog.content import EvidenceData, LabelData, QualityData, label_data
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
from eigenbank.registry.catalog.sql import among, insert_rows, rows_of
from eigenbank.registry.catalog.stored import QUALITY_COLUMNS
from eigenbank.schemas import Label

Protocol = tuple[float, int, tuple[int, ...]]
"""Scale, steps and seeds of a measurement, which evidence and qualities end with."""

_PROTOCOLS = select(ProtocolTable.digest, ProtocolTable.id).where(among(ProtocolTable.digest, "digests"))


_NONE = (None,) * len(QUALITY_COLUMNS)


def quality_rows(numbers: Numbering, qualities: Sequence[QualityData | None]) -> list[tuple[Any, ...]]:
    """Return what qualities are stored as (see `stored.QUALITY_COLUMNS`), their sources and protocols put in."""
    known = [quality for quality in qualities if quality is not None]
    sources = numbers.strings(SourceTable, "name", sorted({quality.source for quality in known}))
    protocols = iter(_protocols_of(numbers, known))
    found: list[tuple[Any, ...]] = []
    for quality in qualities:
        if quality is None:
            found.append(_NONE)
            continue
        source, effect, selectivity, consistency, linearity, between, locality, drift, *_ = quality
        low, high = between or (None, None)
        kept = (
            sources[source],
            next(protocols),
            None if effect is None else round(effect * PARTS),
            None if selectivity is None else round(selectivity * PARTS),
            None if consistency is None else round(consistency * PARTS),
            None if linearity is None else round(linearity * PARTS),
            None if low is None else round(low * PARTS),
            None if high is None else round(high * PARTS),
            None if locality is None else round(locality * PARTS),
            None if drift is None else round(drift * PARTS),
        )
        found.append(kept)
    return found


def insert_labels(numbers: Numbering, labels: list[tuple[int, int | None, LabelData]]) -> None:
    """Insert labels, given with the number of their direction and its rank, where it has one. The caller keeps the counts."""
    if not labels:
        return
    names = {label.text for _, _, label in labels}
    evidences = [label[-1] for _, _, label in labels if label[-1] is not None]
    names.update([evidence.runner_up for evidence in evidences if evidence.runner_up])
    texts = label_texts(numbers, sorted(names))
    sources = numbers.strings(SourceTable, "name", sorted({label.source for _, _, label in labels}))
    protocols = iter(_protocols_of(numbers, evidences))
    rows: list[tuple[Any, ...]] = []
    nearest, whole = round, PARTS  # `parts`, spelled out: a call for each number would take as long as the rest
    for number, rank, (text, source, polarity, confidence, created, note, evidence) in labels:
        sure = None if confidence is None else nearest(confidence * whole)
        if evidence is None:
            facts = (number, texts[text], sources[source], polarity, sure, created, note)
            rows.append((*facts, None, None, None, None, None, None, None, None, rank))
            continue
        effect, selectivity, consistency, asymmetry, other, other_effect, null, _, _, _ = evidence
        row = (
            number,
            texts[text],
            sources[source],
            polarity,
            sure,
            created,
            note,
            next(protocols),
            nearest(effect * whole),
            nearest(selectivity * whole),
            nearest(consistency * whole),
            None if asymmetry is None else nearest(asymmetry * whole),
            texts[other] if other else None,
            None if other_effect is None else nearest(other_effect * whole),
            None if null is None else nearest(null * whole),
            rank,
        )
        rows.append(row)
    # In the order of the key, which no two share: pages are then filled one after the other.
    rows.sort()
    insert_rows(numbers.connection, LabelTable, rows)


def label_texts(numbers: Numbering, texts: Iterable[str]) -> dict[str, int]:
    """Return the numbers of label texts, adding those that are new to the table and to the word index."""
    return numbers.strings(TextTable, "text", texts, words="texts")


def _protocols_of(numbers: Numbering, measured: Sequence[EvidenceData | QualityData]) -> list[int]:
    """Return the number of each one's protocol. They are told apart by scale, steps and the identity of their seeds: most share
    few lists of those, which are long to compare.
    """
    keys = [(one[-3], one[-2], id(one[-1])) for one in measured]
    different = dict(zip(keys, measured, strict=True))
    known = _protocols(numbers, {(one.scale, one.steps, one.seeds) for one in different.values()})
    found = {key: known[one.scale, one.steps, one.seeds] for key, one in different.items()}
    return [found[key] for key in keys]


def _protocols(numbers: Numbering, protocols: Iterable[Protocol]) -> dict[Protocol, int]:
    digests: dict[str, Protocol] = {}
    seeds_of: dict[str, str] = {}
    for scale, steps, seeds in sorted(protocols):
        text = json.dumps(list(seeds), separators=(",", ":"))
        digest = hashlib.sha256(f"{float(scale)!r} {steps} {text}".encode()).hexdigest()
        digests[digest] = (scale, steps, seeds)
        seeds_of[digest] = text
    if not digests:
        return {}
    known: dict[str, int] = dict(rows_of(numbers.connection, _PROTOCOLS, {"digests": list(digests)}))
    missing = [digest for digest in digests if digest not in known]
    if missing:
        first = numbers.take(ProtocolTable, len(missing))
        known.update({digest: first + index for index, digest in enumerate(missing)})
        rows = [(known[digest], *digests[digest][:2], digest, seeds_of[digest]) for digest in missing]
        insert_rows(numbers.connection, ProtocolTable, rows)
    return {protocol: known[digest] for digest, protocol in digests.items()}


def put_label(connection: Connection, direction_id: int, label: Label) -> None:
    """Give a direction a label, in the place of the one of the same text and source."""
    numbers = Numbering(connection)
    texts = label_texts(numbers, [label.text])
    sources = numbers.strings(SourceTable, "name", [label.source])
    remove_label(connection, direction_id, texts[label.text], sources[label.source])
    rank = connection.execute(select(DirectionTable.rank).where(DirectionTable.id == direction_id)).scalar_one()
    insert_labels(numbers, [(direction_id, rank, label_data(label))])
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
