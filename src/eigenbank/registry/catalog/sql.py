"""Small pieces of SQL that differ between databases or are used all over."""

import json
import os
import re
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, select

from eigenbank.registry.catalog.models import Base


def among(column: Any, values: Iterable[Any]) -> ColumnElement[bool]:
    """Return `column IN values`, with one JSON parameter however many values: the statement is compiled once."""
    rows = func.json_each(json.dumps(list(values))).table_valued("value")
    condition: ColumnElement[bool] = column.in_(select(rows.c.value))
    return condition


def unindexed(column: Any) -> Any:
    """Return the column so that the planner does not use its index: for where another one is known to be better."""
    return column + 0


def next_id(connection: Connection, table: type[Base]) -> int:
    """Return the first free number of a table. Safe because only one transaction at a time may write."""
    column = table.__table__.c.id
    return int(connection.execute(select(func.coalesce(func.max(column), 0) + 1)).scalar_one())


def intern(connection: Connection, table: type[Base], column: str, values: Iterable[str]) -> dict[str, int]:
    """Return the number of every string in a table that holds each once, adding those it lacks."""
    wanted = list(dict.fromkeys(values))
    if not wanted:
        return {}
    key = table.__table__.c[column]
    known = {row[0]: row[1] for row in connection.execute(select(key, table.__table__.c.id).where(among(key, wanted)))}
    missing = [value for value in wanted if value not in known]
    if missing:
        first = next_id(connection, table)
        added = {value: first + index for index, value in enumerate(missing)}
        connection.execute(insert(table), [{"id": number, column: value} for value, number in added.items()])
        known.update(added)
    return known


def storable(text: str) -> bool:
    """Whether a string can be a parameter: text from a shell may hold what is no Unicode. Such a name is nobody's."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


_SCHEME = re.compile(r"[a-z]{2,}:")


def path_key(path: str) -> str:
    """Return the one written form of a local path; a place such as `shipped:NAME` is that already."""
    return path if _SCHEME.match(path) or "\x00" in path else os.path.realpath(path)
