"""The labels of many texts in one order: a merge of the index's ranges, each read no further than needed."""

import heapq
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from eigenbank.registry.catalog.models import LabelTable, TextTable
from eigenbank.registry.catalog.parts import PARTS
from eigenbank.registry.catalog.query import Position
from eigenbank.registry.catalog.sql import among, rows_of
from eigenbank.registry.catalog.walk import Budget

_AT_ONCE = 4
"""Up to this many texts are read without first asking which of them begin where."""
_LEAST = 4
"""Labels of one text that are read at first, unless fewer are wanted."""

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
Keep = Callable[[int], bool] | None
"""Which directions to keep; None: all."""


class _Text:
    """The labels of one text, in order."""

    def __init__(
        self, connection: Connection, text: int, statement: Any, keep: Keep, *, unknown: bool, after: Position | None
    ) -> None:
        self.keep = keep
        self.connection = connection
        self.text = text
        self.statement = statement
        self.place = (0 if unknown else -_BEYOND, 0) if after is None else (-_value(after), after.direction)
        self.batch = 0
        self.done = False
        self.rows: list[Row] = []

    def next(self, wanted: int, budget: Budget) -> Row | None:
        """Return the next label; None at the end."""
        while not self.rows:
            if self.done:
                return None
            # Rows that are still to be sifted are read from the index alone, and cost little.
            self.batch = min(max(self.batch * 4, wanted if self.keep is None else 12 * wanted), 4_096)
            values = {"text": self.text, "value": -self.place[0], "number": self.place[1], "count": self.batch}
            found = rows_of(self.connection, self.statement, values)
            budget.spend(self.batch)
            self.done = len(found) < self.batch
            if found:
                self.place = (-(found[-1][1] or 0), found[-1][0])
            keep = self.keep
            self.rows = [(-(row[1] or 0), row[0]) for row in reversed(found) if keep is None or keep(row[0])]
        return self.rows.pop()


def merged(
    connection: Connection,
    texts: dict[int, tuple[Any, Keep]],
    stream: int,
    after: Position | None,
    wanted: int,
    budget: Budget,
) -> Iterator[list[Position]]:
    """Yield batches of positions of the labels of texts: an odd stream is of those without a confidence.

    `texts` gives for each text the statement for its labels, (direction, confidence), without text and order, and which
    directions of those to keep.
    """
    unknown = bool(stream % 2)
    heads = _heads(connection, list(texts), after, unknown=unknown)
    completed: dict[int, Any] = {}
    share = min(max(2 * wanted // max(len(heads), 1), _LEAST), wanted)
    heap: list[tuple[int, int, int, _Text | None]] = [(*head, text, None) for text, head in heads]
    heapq.heapify(heap)
    batch: list[Position] = []
    while heap:
        negated, number, text, opened = heap[0]
        if opened is None:
            base, keep = texts[text]
            if id(base) not in completed:
                completed[id(base)] = _complete(base, unknown=unknown)
            opened = _Text(connection, text, completed[id(base)], keep, unknown=unknown, after=after)
        else:
            position = Position(stream, None if unknown else -negated, number)
            if not batch or batch[-1] != position:
                batch.append(position)
            if len(batch) >= wanted:
                yield batch
                batch = []
        row = opened.next(share, budget)
        if row is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (*row, text, opened))
    if batch:
        yield batch


def _heads(connection: Connection, texts: list[int], after: Position | None, *, unknown: bool) -> list[tuple[int, Row]]:
    """The texts that have labels left, with a place that none of theirs comes before."""
    if len(texts) <= _AT_ONCE:
        return [(text, (-_BEYOND, 0)) for text in texts]
    if unknown:
        found = connection.execute(_FIRST_HEADS, {"texts": texts, "number": after.direction if after else 0})
        return [(row[0], (0, row[1])) for row in found if row[1] is not None]
    value = _value(after) if after is not None and after.value is not None else _BEYOND
    found = connection.execute(_BEST_HEADS, {"texts": texts, "value": value})
    return [(row[0], (-row[1], 0)) for row in found if row[1] is not None]


def _value(after: Position) -> int:
    """The confidence that a position is at. A cursor may be made up, and hold any number."""
    return int(after.value or 0)


def _complete(base: Any, *, unknown: bool) -> Any:
    number, value = LabelTable.direction_id, LabelTable.confidence
    statement = base.where(LabelTable.text_id == bindparam("text")).limit(bindparam("count"))
    if unknown:
        return statement.where(value.is_(None), number > bindparam("number")).order_by(number)
    # The bound by itself is what the index can start from; the rest cuts off the ties already seen.
    beyond = (value < bindparam("value")) | (number > bindparam("number"))
    return statement.where(value.is_not(None), value <= bindparam("value"), beyond).order_by(value.desc(), number)
