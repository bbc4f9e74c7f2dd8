"""The numbers of rows: given out to new ones, and looked up for strings that are kept once."""

import math
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, func, select

from eigenbank.registry.catalog import fts
from eigenbank.registry.catalog.models import Base
from eigenbank.registry.catalog.sql import among, insert_rows, rows_of


class Numbering:
    """The numbers of one writing transaction. Only one may write at a time: what was looked up once is true to its end."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        # SQLite stores NaN as NULL; of None, its driver looks each time for what to make of it, as long as storing a label.
        self.nothing: Any = math.nan if connection.dialect.name == "sqlite" else None
        """What to put in a row for NULL where there are millions."""
        self._free: dict[type[Base], int] = {}
        self._known: dict[type[Base], dict[str, int]] = {}

    def take(self, table: type[Base], count: int = 1) -> int:
        """Return the first of `count` numbers in a row that a table has not used and that are the caller's now."""
        first = self._free.get(table)
        if first is None:
            first = int(self.connection.execute(_first_free(table)).scalar_one())
        self._free[table] = first + count
        return first

    def known(self, table: type[Base], column: str, values: Iterable[str]) -> dict[str, int]:
        """Return the numbers of those of the strings that a table has, and maybe of more. The caller adds what it puts in."""
        known = self._known.setdefault(table, {})
        wanted = [value for value in dict.fromkeys(values) if value not in known]
        if wanted:
            known.update(rows_of(self.connection, _known(table, column), {"values": wanted}))
        return known

    def strings(
        self, table: type[Base], column: str, values: Collection[str], words: fts.Kind | None = None
    ) -> dict[str, int]:
        """Return the numbers of strings, and maybe of more, in a table that holds each once. Those it lacks are added, in the
        order given, and their words to the index `words`.
        """
        known = self.known(table, column, values)
        missing = [value for value in dict.fromkeys(values) if value not in known]
        if missing:
            added = list(enumerate(missing, self.take(table, len(missing))))
            insert_rows(self.connection, table, added)
            if words is not None:
                fts.add(self.connection, words, added)
            known.update({value: number for number, value in added})
        return known


@lru_cache(maxsize=64)
def _first_free(table: type[Base]) -> Any:
    return select(func.coalesce(func.max(table.__table__.c.id), 0) + 1)


@lru_cache(maxsize=64)
def _known(table: type[Base], column: str) -> Any:
    key = table.__table__.c[column]
    return select(key, table.__table__.c.id).where(among(key, "values"))
