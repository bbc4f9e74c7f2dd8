"""Walks through the directions in an order that the database has them in, leaving out what does not fit."""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, text

from eigenbank.registry.catalog.match import Place, conditions
from eigenbank.registry.catalog.models import DirectionTable, LayerTable, SetTable, SpectrumTable
from eigenbank.registry.catalog.query import Position
from eigenbank.registry.catalog.scope import Scope
from eigenbank.registry.catalog.sql import among, rows_of

_BLOCK = 256
"""So many rows are looked at in one go, at least."""
_SIFTED, _NARROW = 16 * _BLOCK, 64 * _BLOCK
"""So many at first where the database sifts them, and where it comes in by few values of a column."""

_SET_OF = (
    select(LayerTable.set_id)
    .join(SpectrumTable, SpectrumTable.layer_id == LayerTable.id)
    .join(DirectionTable, DirectionTable.spectrum_id == SpectrumTable.id)
)


class TooFarError(Exception):
    """A walk has looked at more rows than it was given."""


class Budget:
    """How many rows may still be looked at; None for any number."""

    def __init__(self, rows: int | None) -> None:
        self.rows = rows

    def spend(self, rows: int) -> None:
        """Take rows off. Raises TooFarError when there are none left."""
        if self.rows is not None:
            self.rows -= rows
            if self.rows < 0:
                raise TooFarError


def by_column(
    connection: Connection,
    column: Any,
    fitting: Callable[[list[int]], set[int]] | None,
    *,
    descending: bool,
    after: Position | None,
    wanted: int,
    budget: Budget,
    own: list[Any],
) -> Iterator[list[Position]]:
    """Yield the directions in the order of a column (None: of their numbers), then those that have nothing there.

    `fitting` tells which of some directions fit; None: all do. `own` are limits on the column itself, where the walk may
    start.
    """
    for stream, value, start in _streams(column, after):
        place = start
        size = wanted if fitting is None else max(wanted, _BLOCK)
        looked = fit = 0
        while True:
            statement = _block(_key(column), stream, descending=descending, placed=place is not None).where(*own)
            rows = rows_of(connection, statement, {**_at(place), "count": size, "skipped": 0})
            last = _position(stream, value, rows[-1]) if len(rows) == size else None
            if fitting is not None:
                fits = fitting([row[0] for row in rows])
                rows = [row for row in rows if row[0] in fits]
            block = [_position(stream, value, row) for row in rows]
            yield block
            if last is None:
                break
            place = last
            budget.spend(size)
            # As many rows as should hold those that are still wanted, judging by the share that fits so far.
            looked, fit = looked + size, fit + len(block)
            size = min(max((wanted - fit + 4) * looked // max(fit, 1), _BLOCK), size * 8, 32_768)


def by_column_sifted(
    connection: Connection,
    column: Any,
    limits: list[Any],
    *,
    descending: bool,
    after: Position | None,
    wanted: int,
    budget: Budget,
    own: list[Any],
) -> Iterator[list[Position]]:
    """The same where conditions on a row of directions tell what fits: the database sifts the rows as it walks, and stops at the
    last one wanted, where asking which of their numbers fit would look at all of a block.
    """
    for stream, value, start in _streams(column, after):
        place = start
        size = _SIFTED
        while True:
            block = partial(_block, _key(column), stream, descending=descending, placed=place is not None)
            ends = rows_of(connection, block().where(*own), {**_at(place), "count": 1, "skipped": size - 1})
            end = _position(stream, value, ends[0]) if ends else None
            statement = block(ended=end is not None).where(*own, *limits)
            rows = rows_of(connection, statement, {**_at(place), **_at(end, "last_"), "count": wanted, "skipped": 0})
            yield [_position(stream, value, row) for row in rows]
            if len(rows) == wanted:
                place = _position(stream, value, rows[-1])
                continue
            if end is None:
                break
            place = end
            budget.spend(size)
            size = min(size * 2, 32_768)


def _streams(column: Any, after: Position | None) -> Iterator[tuple[int, Any, Position | None]]:
    """The streams of a walk that are not over after a place: number, the column that orders it, and the place if it is in it."""
    for stream in (0, 1) if column is not None and column.nullable else (0,):
        if after is None or after.stream <= stream:
            yield stream, None if stream else column, after if after is not None and after.stream == stream else None


def _position(stream: int, value: Any, row: Any) -> Position:
    return Position(stream, None if value is None else row[1], row[0])


def _key(column: Any) -> str | None:
    return None if column is None else column.key


def _at(place: Position | None, prefix: str = "") -> dict[str, Any]:
    """A place as values of `_block`; before all where there is none."""
    value, number = (None, 0) if place is None else (place.value, place.direction)
    return {f"{prefix}value": value, f"{prefix}number": number}


@lru_cache(maxsize=256)
def _block(key: str | None, stream: int, *, descending: bool, placed: bool, ended: bool = False) -> Any:
    """Select directions from the index alone, in the order of a column (None: of their numbers), stream 1 those that have
    nothing there: `count` of them behind `skipped`. `placed`: after the place `value`, `number`; `ended`: up to the place
    `last_value`, `last_number`.

    Made once, and the places as text: SQLAlchemy would take longer to put them together than the database to answer.
    """
    number, table = DirectionTable.id, DirectionTable.__tablename__
    column: Any = None if key is None else getattr(DirectionTable, key)
    statement: Any = select(number.label("id"))
    if column is None or stream == 1:
        if column is not None:
            statement = statement.where(column.is_(None))
        limits = [f"{table}.id > :number", *([f"{table}.id <= :last_number"] if ended else [])]
        statement = statement.order_by(number)
    else:
        statement = select(number.label("id"), column.label("value")).where(column.is_not(None))
        statement = statement.order_by(column.desc() if descending else column, number)
        beyond, before = "<>" if descending else "><"
        limits = []
        # The bound by itself is what an index can start from, or end at; the rest cuts off the ties on the other side.
        if placed:
            limits += [f"{table}.{key} {beyond}= :value", f"({table}.{key} {beyond} :value OR {table}.id > :number)"]
        if ended:
            bound = f"{table}.{key} {before}= :last_value"
            limits += [bound, f"({table}.{key} {before} :last_value OR {table}.id <= :last_number)"]
    if limits:
        statement = statement.where(text(" AND ".join(limits)))
    return statement.limit(bindparam("count")).offset(bindparam("skipped"))


def by_number(
    connection: Connection, limits: list[Any], few: Any, start: int, last: int, wanted: int, budget: Budget
) -> Iterator[list[int]]:
    """Yield the directions after number `start`, up to the `last` there is, that meet the limits, in catalog order. The
    database sifts the rows where they lie, one after the other: a fifth of the time of asking which of their numbers fit.
    `few`: one more limit, that a column has one of few values, whose index has the directions of each in order.
    """
    number = DirectionTable.id
    size, looked, fit = max(wanted, _BLOCK), 0, 0
    if few is not None:
        limits, size = [few, *limits], _NARROW
    while start < last:
        statement = select(number).where(number.between(start + 1, start + size), *limits)
        found = sorted(row[0] for row in rows_of(connection, statement))
        yield found
        budget.spend(size)
        start += size
        if not found:  # there may be no such numbers at all for a while
            start = (connection.execute(select(func.min(number)).where(number > start)).scalar() or last + 1) - 1
        looked, fit = looked + size, fit + len(found)
        size = min(max((wanted - fit + 4) * looked // max(fit, 1), _BLOCK), size * 8, 32_768)


def by_set(
    connection: Connection,
    scope: Scope,
    places: list[Place],
    limits: list[Any],
    start: int,
    wanted: int,
    budget: Budget,
    *,
    composites: bool = False,
) -> Iterator[list[int]]:
    """Yield the directions after number `start`, in catalog order, set by set: those in the scope, whose names have the
    terms of all places, and that meet the limits. `composites`: which leave nothing but composites.
    """
    first = 0
    if start:
        first = connection.execute(_SET_OF.where(DirectionTable.id == start)).scalar() or 0
    candidates = select(SetTable.id).order_by(SetTable.id)
    if scope.sets is not None:
        candidates = candidates.where(among(SetTable.id, scope.sets))
    for place in places:
        if not place.names:
            candidates = candidates.where(among(SetTable.checkpoint_id, sorted(place.checkpoints)))
    spectra = (
        select(SpectrumTable.id)
        .join(LayerTable, LayerTable.id == SpectrumTable.layer_id)
        .where(*scope.conditions(indexed=False, sets=False), *conditions(tuple(places)))
    )
    number = DirectionTable.id
    size, batch = 2, wanted
    if composites:  # a set has few, all in one spectrum at no layer
        spectra, size = spectra.where(LayerTable.name_id.is_(None)), 32
    while True:
        sets = [row[0] for row in rows_of(connection, candidates.where(SetTable.id >= first).limit(size))]
        found = (
            sorted(row[0] for row in rows_of(connection, spectra.where(among(LayerTable.set_id, sets)))) if sets else []
        )
        budget.spend(len(found))
        for begin in range(0, len(found), 200):
            rows = select(number).where(among(DirectionTable.spectrum_id, found[begin : begin + 200]), *limits)
            while True:
                numbers = [
                    row[0] for row in rows_of(connection, rows.where(number > start).order_by(number).limit(batch))
                ]
                yield numbers
                if len(numbers) < batch:
                    break
                budget.spend(batch)
                start = numbers[-1]
                batch = min(batch * 2, 4_096)
        if len(sets) < size:
            return
        first = sets[-1] + 1
        size = min(size * 2, 256)
