"""Labels and qualities as they are stored: the columns they take, and what the values there stand for."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Double,
    Integer,
    cast,
    literal_column,
    null,
    select,
    type_coerce,
    union_all,
)

from eigenbank.registry.catalog.content import MAKE, EvidenceData, LabelData, QualityData
from eigenbank.registry.catalog.engine import AGAIN
from eigenbank.registry.catalog.models import DirectionTable, LabelTable, ProtocolTable, SourceTable, TextTable
from eigenbank.registry.catalog.parts import PARTS, number
from eigenbank.registry.catalog.sql import among, rows_of
from eigenbank.schemas.errors import CatalogError

LABEL_COLUMNS = (
    LabelTable.direction_id,
    LabelTable.text_id,
    LabelTable.source_id,
    LabelTable.polarity,
    LabelTable.confidence,
    type_coerce(LabelTable.created, BigInteger),
    LabelTable.note,
    LabelTable.protocol_id,
    LabelTable.effect,
    LabelTable.selectivity,
    LabelTable.consistency,
    LabelTable.asymmetry,
    LabelTable.runner_up_id,
    LabelTable.runner_up_effect,
    LabelTable.null_effect,
)
QUALITY_COLUMNS = (
    DirectionTable.source_id,
    DirectionTable.protocol_id,
    DirectionTable.effect,
    DirectionTable.selectivity,
    DirectionTable.consistency,
    DirectionTable.linearity,
    DirectionTable.range_low,
    DirectionTable.range_high,
    DirectionTable.locality,
    DirectionTable.drift,
)

PROTOCOLS = select(ProtocolTable.id, ProtocolTable.scale, ProtocolTable.steps, ProtocolTable.seeds)
_NO_SCALE: Any = cast(null(), Double())
_NO_STEPS: Any = cast(null(), Integer())
_NAMED = union_all(
    *(
        select(literal_column(kind), table.id, text, scale, steps).where(among(table.id, f"numbers_{kind}"))
        for kind, table, text, scale, steps in (
            ("0", TextTable, TextTable.text, _NO_SCALE, _NO_STEPS),
            ("1", SourceTable, SourceTable.name, _NO_SCALE, _NO_STEPS),
            ("2", ProtocolTable, ProtocolTable.seeds, ProtocolTable.scale, ProtocolTable.steps),
        )
    )
)
"""Texts, sources and protocols in one statement: each of its own takes longer than what it finds."""


WRONG = (TypeError, ValueError, ArithmeticError, LookupError, RecursionError)
"""What making sense of stored values raises where a column holds what it should not: SQLite keeps whatever it is given."""


@contextmanager
def understood() -> Iterator[None]:
    """Raise CatalogError for what is raised where stored values stand for nothing."""
    try:
        yield
    except WRONG as error:
        message = (
            f"the catalog holds what none should (a value of a wrong kind: {error}). `eigenbank catalog verify` says of which "
            f"model. {AGAIN}"
        )
        raise CatalogError(message) from error


class Stored:
    """What stored labels and qualities stand for. The strings and protocols they refer to are learnt first, each once."""

    def __init__(self, texts: Iterable[Any] = (), sources: Iterable[Any] = (), protocols: Iterable[Any] = ()) -> None:
        """Know some from the start, given as rows of their tables."""
        self.texts: dict[int, str] = {}
        self.sources: dict[int, str] = {}
        self.protocols: dict[int, tuple[float, int, tuple[int, ...]]] = {}
        self._take_in(texts, sources, protocols)

    def learn(self, connection: Connection, labels: Sequence[Any], qualities: Sequence[Any]) -> None:
        """Look up what rows of LABEL_COLUMNS, and rows that begin as QUALITY_COLUMNS do, refer to."""
        texts = set(map(itemgetter(1), labels)).union(map(itemgetter(12), labels))
        sources = set(map(itemgetter(2), labels)).union(map(itemgetter(0), qualities))
        protocols = set(map(itemgetter(7), labels)).union(map(itemgetter(1), qualities))
        wanted: list[tuple[set[Any], Mapping[int, Any]]]
        wanted = [(texts, self.texts), (sources, self.sources), (protocols, self.protocols)]
        missing = [[key for key in keys if key is not None and key not in known] for keys, known in wanted]
        if not any(missing):
            return
        if not all(type(key) is int for keys in missing for key in keys):
            message = "a number of a text, source or protocol is none"
            raise TypeError(message)
        values = {f"numbers_{kind}": numbers for kind, numbers in enumerate(missing)}
        found: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        for kind, key, text, scale, steps in rows_of(connection, _NAMED, values):
            found[kind].append((key, text) if kind < 2 else (key, scale, steps, text))
        self._take_in(*found)

    def _take_in(self, texts: Iterable[Any], sources: Iterable[Any], protocols: Iterable[Any]) -> None:
        self.texts.update(texts)
        self.sources.update(sources)
        for key, scale, steps, seeds in protocols:
            self.protocols[key] = (scale, steps, tuple(json.loads(seeds)))

    def label(self, row: Sequence[Any]) -> LabelData:
        """Return the label that a row of LABEL_COLUMNS stands for."""
        # In one piece, and without calls: of millions of labels, each takes as long as reading one.
        _, text, source, polarity, sure, created, note, protocol, *measured = row
        evidence = None
        if protocol is not None:
            effect, selectivity, consistency, asymmetry, other, other_effect, null = measured
            facts = (
                effect / PARTS,
                selectivity / PARTS,
                consistency / PARTS,
                None if asymmetry is None else asymmetry / PARTS,
                None if other is None else self.texts[other],
                None if other_effect is None else other_effect / PARTS,
                None if null is None else null / PARTS,
            )
            evidence = MAKE(EvidenceData, facts + self.protocols[protocol])
        confidence = None if sure is None else sure / PARTS
        found: LabelData = MAKE(
            LabelData, (self.texts[text], self.sources[source], polarity, confidence, created, note, evidence)
        )
        return found

    def quality(self, row: Sequence[Any]) -> QualityData | None:
        """Return the quality that a row of QUALITY_COLUMNS stands for."""
        source, protocol, effect, selectivity, consistency, linearity, low, high, locality, drift = row
        if source is None:
            return None
        return QualityData(
            self.sources[source],
            number(effect),
            number(selectivity),
            number(consistency),
            number(linearity),
            None if low is None else (low / PARTS, high / PARTS),
            number(locality),
            number(drift),
            *self.protocols[protocol],
        )
