"""The numbers of rows: given out to new ones, and looked up for strings that are kept once."""

from collections.abc import Iterable
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
        self._free: dict[type[Base], int] = {}
        self._known: dict[type[Base], dict[str, int]] = {}

    def take(self, table: type[Base], count: int = 1) -> int:
        """Return the first of `count` numbers in a row that a table has not used and that are the caller's now."""
        first = self._free.get(table)
        if first is None:
            first = int(self.connection.execute(_first_free(table)).scalar_one())
        self._free[table] = first + count
        return first

    def strings(
        self, table: type[Base], column: str, values: Iterable[str], words: fts.Kind | None = None
    ) -> dict[str, int]:
        """Return the numbers of strings, and maybe of more, in a table that holds each once. Those it lacks are added, in the
        order given, and their words to the index `words`.
        """
        known = self._known.setdefault(table, {})
        wanted = [value for value in dict.fromkeys(values) if value not in known]
        if wanted:
            known.update(rows_of(self.connection, _known(table, column), {"values": wanted}))
            missing = [value for value in wanted if value not in known]
            added = dict(zip(missing, range(self.take(table, len(missing)), 2**63), strict=False)) if missing else {}
            insert_rows(self.connection, table, [(number, value) for value, number in added.items()])
            if words is not None:
                fts.add(self.connection, words, [(number, value) for value, number in added.items()])
            known.update(added)
        return known


@lru_cache(maxsize=64)
def _first_free(table: type[Base]) -> Any:
    return select(func.coalesce(func.max(table.__table__.c.id), 0) + 1)


@lru_cache(maxsize=64)
def _known(table: type[Base], column: str) -> Any:
    key = table.__table__.c[column]
    return select(key, table.__table__.c.id).where(among(key, "values"))
