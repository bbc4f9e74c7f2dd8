"""Searching: pages of directions, the best match first or in another order.

A label matches a text when every term is in its own text, in its layer's name or in its model's id. How well, by tier:

0. the label's text is the query, word for word
1. every term is in the label's text as whole words
2. every term is in the label's text, some only as the beginning of a word
3. some terms are in the label's text, the others in the names
4. every term is in the names alone (a direction needs no label for that)

Within a tier the most confident label comes first, those without a confidence last, ties in catalog order. A direction
appears once, under its best label. Pages are read from streams of rows, each in the order of an index, and go on after
the last row of the page before: a page deep inside costs as much as the first.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, false, or_, select

from eigenbank.registry.catalog import fts, read
from eigenbank.registry.catalog.models import DirectionTable, LabelTable, SpectrumTable, TextTable
from eigenbank.registry.catalog.query import (
    FEW,
    Filters,
    LabelTest,
    Position,
    decode,
    direction_conditions,
    encode,
    label_test,
    scope,
    some_label,
)
from eigenbank.registry.catalog.rows import Page
from eigenbank.registry.catalog.sql import among, unindexed
from eigenbank.registry.catalog.words import MAX_TERMS, MAX_WORD, parse, split
from eigenbank.schemas.errors import CatalogError

Key = tuple[int, bool, float]
"""How well a direction matches: tier, whether its confidence is unknown, the confidence negated. Less is better."""
NAMES = 4
"""The tier of what matches by its names alone."""


@dataclass
class Matches:
    """Which texts and layers answer a query. `tiers`: text → tier 0 to 2. `mixed`: sets of texts with the layers that
    have the terms they lack. `layers`: those whose names have every term.
    """

    tiers: dict[int, int] = field(default_factory=dict)
    mixed: list[tuple[set[int], set[int]]] = field(default_factory=list)
    layers: set[int] = field(default_factory=set)

    def tier(self, text_id: int, layer_id: int) -> int | None:
        """The tier of a label on a direction of a layer; None where it does not match."""
        found = self.tiers.get(text_id)
        if found is not None:
            return found
        return 3 if any(text_id in texts and layer_id in layers for texts, layers in self.mixed) else None

    def labels(self, tier: int, *, by_direction: bool) -> ColumnElement[bool] | None:
        """The condition on labels and spectra that the label is of a tier (0 to 3); None where there can be none.
        `by_direction`: the directions are few and lead to their labels, not the texts.
        """
        column: Any = unindexed(LabelTable.text_id) if by_direction else LabelTable.text_id
        if tier < 3:
            texts = [text for text, found in self.tiers.items() if found == tier]
            return among(column, texts) if texts else None
        if not self.mixed:
            return None
        return or_(*(among(column, texts) & among(SpectrumTable.layer_id, layers) for texts, layers in self.mixed))


def match(connection: Connection, text: str) -> Matches:
    """Look a query up in the word index. Raises CatalogError for one of more than MAX_TERMS different terms."""
    terms = parse(text)
    if len(terms) > MAX_TERMS:
        message = f"a search takes up to {MAX_TERMS} different words, this one has {len(terms)}: leave some out."
        raise CatalogError(message)
    found = Matches()
    if not terms or any(len(word) > MAX_WORD for term in terms for word in term.words):
        return found
    if any(len(term.words) > MAX_WORD for term in terms):
        return found
    whole = [fts.texts_with(connection, term, prefix=False) for term in terms]
    open_ = [
        fts.texts_with(connection, term, prefix=True) if term.prefix else exact
        for term, exact in zip(terms, whole, strict=True)
    ]
    layers = [fts.layers_with(connection, term) for term in terms]
    query = [word for term in terms for word in term.words]
    complete = set.intersection(*whole)
    found.tiers.update(dict.fromkeys(set.intersection(*open_), 2))
    for number, label in connection.execute(select(TextTable.id, TextTable.text).where(among(TextTable.id, complete))):
        found.tiers[number] = 0 if split(label) == query else 1
    found.layers = set.intersection(*layers)
    groups: dict[int, set[int]] = {}
    for number in set().union(*open_).difference(found.tiers) if len(terms) > 1 else ():
        mask = sum(1 << index for index, texts in enumerate(open_) if number in texts)
        groups.setdefault(mask, set()).add(number)
    for mask, texts in groups.items():
        rest = set.intersection(*(layers[index] for index in range(len(terms)) if not mask >> index & 1))
        if rest:
            found.mixed.append((texts, rest))
    return found


@dataclass(frozen=True)
class Stream:
    """Rows (direction, value) in order. `value` None: the rows have none, they are in catalog order."""

    statement: Any
    direction: Any
    value: Any = None
    descending: bool = False

    def rows(self, connection: Connection, after: Position | None, count: int) -> list[tuple[int, float | None]]:
        """Return the next rows after a position."""
        statement = self.statement.limit(count)
        if self.value is None:
            if after is not None:
                statement = statement.where(self.direction > after.direction)
            return [(row[0], None) for row in connection.execute(statement.order_by(self.direction))]
        if after is not None:
            # The bound by itself is what an index can start from; the rest cuts off the ties already seen.
            beyond = self.value < after.value if self.descending else self.value > after.value
            bound = self.value <= after.value if self.descending else self.value >= after.value
            statement = statement.where(bound, beyond | (self.direction > after.direction))
        order = self.value.desc() if self.descending else self.value
        return [(row[0], row[1]) for row in connection.execute(statement.order_by(order, self.direction))]


class Search:
    """One search in one transaction."""

    def __init__(self, connection: Connection, filters: Filters) -> None:
        self.connection = connection
        self.filters = filters
        self.test: LabelTest = label_test(connection, filters)
        limited = scope(connection, filters)
        self.narrow = limited is not None and limited.directions <= FEW
        self.conditions = direction_conditions(filters) + ([limited.condition()] if limited else [])
        self.matches = None if filters.text is None else match(connection, filters.text)

    def page(self, limit: int, cursor: str | None) -> Page:
        """Return up to `limit` directions after the cursor."""
        digest = self.filters.digest
        after = decode(cursor, digest) if cursor is not None else None
        found: list[Position] = []
        for position in self._positions(after, limit + 1):
            found.append(position)
            if len(found) > limit:
                break
        rows = read.directions(self.connection, [position.direction for position in found[:limit]])
        return Page(rows, encode(found[limit - 1], digest) if len(found) > limit else None)

    def _positions(self, after: Position | None, count: int) -> Iterator[Position]:
        ranked = self.matches is not None and self.filters.sort == "match"
        for index, stream in enumerate(self._ranked() if ranked else self._sorted()):
            if stream is None or (after is not None and index < after.stream):
                continue
            place = after if after is not None and index == after.stream else None
            batch = count
            while True:
                rows = stream.rows(self.connection, place, batch)
                # Two labels of one direction may stand at the same place.
                positions = list(dict.fromkeys(Position(index, value, direction) for direction, value in rows))
                yield from self._best(positions) if ranked else positions
                if len(rows) < batch:
                    break
                place = positions[-1]
                batch = min(2 * batch, 5_000)

    # Streams are numbered by their place in these lists, and cursors hold the number: one that is not needed is None.

    def _ranked(self) -> Iterator[Stream | None]:
        """Two streams per tier of labels, with a confidence and without, and one of what matches by names alone."""
        assert self.matches is not None
        for tier in range(NAMES):
            condition = self.matches.labels(tier, by_direction=self.narrow)
            if condition is None:
                yield from (None, None)
                continue
            statement = (
                select(LabelTable.direction_id, LabelTable.confidence)
                .join(DirectionTable, DirectionTable.id == LabelTable.direction_id)
                .join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
                .where(condition, *self.conditions, *self.test.conditions())
            )
            known, value = LabelTable.confidence.is_not(None), LabelTable.confidence
            yield Stream(statement.where(known), LabelTable.direction_id, value, descending=True)
            yield Stream(statement.where(~known), LabelTable.direction_id)
        if self.matches.layers:
            named = select(DirectionTable.id).where(
                DirectionTable.spectrum_id.in_(self._spectra_by_name()),
                *self.conditions,
                *some_label(self.connection, self.test),
            )
            yield Stream(named, DirectionTable.id)

    def _spectra_by_name(self) -> Any:
        assert self.matches is not None
        return select(SpectrumTable.id).where(among(SpectrumTable.layer_id, self.matches.layers))

    def _sorted(self) -> Iterator[Stream]:
        """The directions in the order of a column, then those that have nothing there."""
        conditions = self.conditions + some_label(self.connection, self.test)
        if self.matches is not None:
            conditions.append(self._matching())
        statement = select(DirectionTable.id)
        number = DirectionTable.id
        columns: dict[str, tuple[Any, bool]] = {
            "confidence": (DirectionTable.confidence, True),
            "eigenvalue": (DirectionTable.eigenvalue, True),
            "share": (DirectionTable.share, True),
            "rank": (DirectionTable.rank, False),
        }
        if self.filters.sort not in columns:
            yield Stream(statement.where(*conditions), number)
            return
        column, descending = columns[self.filters.sort]
        valued = statement.add_columns(column).where(*conditions)
        yield Stream(valued.where(column.is_not(None)), number, column, descending)
        if self.filters.sort == "confidence":
            yield Stream(statement.where(column.is_(None), *conditions), number)

    def _matching(self) -> ColumnElement[bool]:
        """The condition that a direction matches the text in any tier."""
        assert self.matches is not None
        ways: list[Any] = [false()]
        found = (self.matches.labels(tier, by_direction=self.narrow) for tier in range(NAMES))
        labels = [condition for condition in found if condition is not None]
        if labels:
            inner = select(LabelTable.direction_id).where(or_(*labels), *self.test.conditions())
            if self.matches.mixed:
                own = DirectionTable.__table__.alias()
                inner = inner.join(own, own.c.id == LabelTable.direction_id).join(
                    SpectrumTable, SpectrumTable.id == own.c.spectrum_id
                )
            ways.append(DirectionTable.id.in_(inner))
        if self.matches.layers:
            ways.append(DirectionTable.spectrum_id.in_(self._spectra_by_name()))
        return or_(*ways)

    def _best(self, positions: list[Position]) -> Iterator[Position]:
        """Keep the positions at which a direction stands under its best label: elsewhere it was shown before."""
        assert self.matches is not None
        best: dict[int, Key] = {}
        statement = (
            select(
                LabelTable.direction_id,
                LabelTable.text_id,
                LabelTable.source_id,
                LabelTable.confidence,
                SpectrumTable.layer_id,
            )
            .join(DirectionTable, DirectionTable.id == LabelTable.direction_id)
            .join(SpectrumTable, SpectrumTable.id == DirectionTable.spectrum_id)
            .where(among(LabelTable.direction_id, [position.direction for position in positions]))
        )
        for direction, text_id, source_id, confidence, layer_id in self.connection.execute(statement):
            tier = self.matches.tier(text_id, layer_id)
            if tier is not None and self.test(source_id, confidence):
                key = (tier, confidence is None, -(confidence or 0.0))
                best[direction] = min(best.get(direction, key), key)
        for position in positions:
            tier, unknown = divmod(position.stream, 2)
            key = (tier, bool(unknown), -(position.value or 0.0))
            if position.direction not in best or best[position.direction] == key:
                yield position
