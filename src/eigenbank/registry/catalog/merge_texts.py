"""The labels of many texts in one order: the database merges the index's ranges, each read no further than needed, and
sifts them on the way. A few texts are one statement; of many, those are merged first that have the best labels.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, func, select, text

from eigenbank.registry.catalog.models import LabelTable, TextTable
from eigenbank.registry.catalog.parts import PARTS
from eigenbank.registry.catalog.query import Position
from eigenbank.registry.catalog.sql import among, rows_of
from eigenbank.registry.catalog.walk import Budget

_TOGETHER = 32
"""So many texts are merged by one statement."""
_LEAST = 8
"""So many labels are read at once, at least."""
_SIFTING = 4
"""Looking a label's direction up costs as much as reading so many labels."""
_ALL = 2**31 - 1
"""More labels than there are."""

_OF_TEXT = LabelTable.text_id == TextTable.id
_BEST = (
    select(func.max(LabelTable.confidence))
    .where(_OF_TEXT, LabelTable.confidence.is_not(None), LabelTable.confidence <= bindparam("value"))
    .scalar_subquery()
)
_FIRST = (
    select(func.min(LabelTable.direction_id))
    .where(_OF_TEXT, LabelTable.confidence.is_(None), LabelTable.direction_id > bindparam("number"))
    .scalar_subquery()
)
_BEST_HEADS = select(TextTable.id, _BEST).where(among(TextTable.id, "texts"))
_FIRST_HEADS = select(TextTable.id, _FIRST).where(among(TextTable.id, "texts"))

Row = tuple[int, int]
"""The negated confidence (0 where there is none) and the direction: less comes first."""
_BEYOND = PARTS + 1
"""More than any confidence."""
# The bound by itself is what the index can start from; the rest cuts off the ties already seen.
_KNOWN = (
    "confidence IS NOT NULL AND confidence <= :value AND (confidence < :value OR direction_id > :number)",
    "confidence DESC, direction_id",
)
_UNKNOWN = "confidence IS NULL AND direction_id > :number", "direction_id"


Sieve = Callable[[Any], list[ColumnElement[bool]]]
"""What is asked of labels beyond their own table, as conditions on the columns of `_labels_of`."""


@dataclass(frozen=True)
class Wanted:
    """Which labels are wanted. `own`: conditions that the texts' index tells, with their `values`. `sieve`: those that
    something must be looked up for.
    """

    own: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    sieve: Sieve | None = None


@lru_cache(maxsize=256)
def _labels_of(count: int, own: tuple[str, ...], *, unknown: bool) -> Any:
    """The labels of so many texts after a place, in order, as a table. As text: SQLAlchemy would take longer to put it
    together than the database to answer it.
    """
    condition, order = _UNKNOWN if unknown else _KNOWN
    columns = LabelTable.direction_id, LabelTable.text_id, LabelTable.confidence
    limits = " AND ".join((condition, *own, "text_id = :text_"))
    one = f"SELECT {', '.join(column.key for column in columns)} FROM labels WHERE {limits}"
    parts = " UNION ALL ".join(f"{one}{place}" for place in range(count))
    return text(f"{parts} ORDER BY {order} LIMIT :most").columns(*columns).subquery("merged")


class _Texts:
    """The labels of some texts, in order."""

    def __init__(self, connection: Connection, texts: list[int], wanted: Wanted, place: Row, *, unknown: bool) -> None:
        self.connection = connection
        self.place = place
        self.done = False
        self.rows: list[Row] = []
        """What was read and not yet taken, the next one last."""
        self._sifted = wanted.sieve is not None
        self._texts = {f"text_{place}": text for place, text in enumerate(texts)} | wanted.values
        self._labels = _labels_of(len(texts), wanted.own, unknown=unknown)
        columns = self._labels.c
        self._statement = select(columns.direction_id, columns.confidence).limit(bindparam("count"))
        if wanted.sieve is not None:
            self._statement = self._statement.where(*wanted.sieve(columns))
        if connection.dialect.name == "postgresql":  # SQLite keeps their order, and would sort all of them anew
            order = [columns.direction_id] if unknown else [columns.confidence.desc(), columns.direction_id]
            self._statement = self._statement.order_by(*order)

    def read(self, count: int, budget: Budget) -> None:
        """Read the next labels, up to `count`. Raises TooFarError where too many would have to be looked at."""
        most = _ALL if budget.rows is None or not self._sifted else budget.rows // _SIFTING + 1
        values = self._texts | {"value": -self.place[0], "number": self.place[1], "count": count, "most": most}
        found = rows_of(self.connection, self._statement, values)
        self.done = len(found) < count
        if self.done and most < _ALL:
            looked = rows_of(self.connection, select(func.count()).select_from(self._labels), values)[0][0]
            budget.spend(_SIFTING * looked)
        else:
            budget.spend(len(found))
        self.rows = [(-(row[1] or 0), row[0]) for row in reversed(found)]
        if found:
            self.place = self.rows[0]


def merged(
    connection: Connection,
    texts: list[int],
    which: Wanted,
    stream: int,
    after: Position | None,
    wanted: int,
    budget: Budget,
) -> Iterator[list[Position]]:
    """Yield batches of positions of the labels of texts, those that are asked for: an odd stream is of those without a
    confidence.
    """
    unknown = bool(stream % 2)
    place = (0 if unknown else -_BEYOND, 0) if after is None else (-_value(after), after.direction)
    heads = _heads(connection, texts, after, unknown=unknown)
    heap: list[tuple[Row, int, _Texts | None]] = [
        (heads[first][0], first, None) for first in range(0, len(heads), _TOGETHER)
    ]
    # Of several statements each gives a part of a page, and what is sifted in vain costs most.
    share = wanted if which.sieve is None else min(wanted, max(2 * wanted // max(len(heap), 1), _LEAST))
    batch: list[Position] = []
    while heap:
        row, first, opened = heap[0]
        if opened is None:
            together = [text for _, text in heads[first : first + _TOGETHER]]
            opened = _Texts(connection, together, which, place, unknown=unknown)
        else:
            batch.append(Position(stream, None if unknown else -row[0], row[1]))
            if len(batch) >= wanted:
                yield batch
                batch = []
        if not opened.rows and not opened.done:
            opened.read(share, budget)
        if opened.rows:
            heapq.heapreplace(heap, (opened.rows.pop(), first, opened))
        else:
            heapq.heappop(heap)
    if batch:
        yield batch


def _heads(connection: Connection, texts: list[int], after: Position | None, *, unknown: bool) -> list[tuple[Row, int]]:
    """A place that none of a text's labels comes before, for each text that has some left; the first of them first."""
    if len(texts) <= _TOGETHER:
        return [((-_BEYOND, 0), text) for text in texts]
    if unknown:
        found = connection.execute(_FIRST_HEADS, {"texts": texts, "number": after.direction if after else 0})
        return sorted(((0, row[1]), row[0]) for row in found if row[1] is not None)
    value = _value(after) if after is not None and after.value is not None else _BEYOND
    found = connection.execute(_BEST_HEADS, {"texts": texts, "value": value})
    return sorted(((-row[1], 0), row[0]) for row in found if row[1] is not None)


def _value(after: Position) -> int:
    """The confidence that a position is at. A cursor may be made up, and hold any number."""
    return int(after.value or 0)
