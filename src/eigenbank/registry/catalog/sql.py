"""Small pieces of SQL that differ between databases or are used all over."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Literal

from sqlalchemy import Boolean, ColumnElement, Connection, Dialect, Double, Integer, Text, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from eigenbank.registry.catalog.models import Base


class Many(TypeDecorator[Any]):
    """A list as one parameter: a JSON text for SQLite, an array for PostgreSQL."""

    impl = Text
    cache_ok = True

    def __init__(self, of: Literal["numbers", "strings"] = "numbers") -> None:
        super().__init__()
        self.of = of

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name != "postgresql":
            return dialect.type_descriptor(Text())
        from sqlalchemy.dialects.postgresql import ARRAY

        element: TypeEngine[Any] = Integer() if self.of == "numbers" else Text()
        return dialect.type_descriptor(ARRAY(element))

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return list(value) if dialect.name == "postgresql" else json.dumps(list(value))


class _Among(FunctionElement[bool]):
    name = "among"
    type = Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Any:
        # A condition as it stands: the `= 1` that SQLite's booleans are given otherwise would keep the index from it.
        return self


@compiles(_Among, "sqlite")
def _among_sqlite(element: Any, compiler: Any, **more: Any) -> str:
    column, values = (compiler.process(clause, **more) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"


@compiles(_Among, "postgresql")
def _among_postgresql(element: Any, compiler: Any, **more: Any) -> str:
    column, values = (compiler.process(clause, **more) for clause in element.clauses)
    return f"{column} = ANY ({values})"


class Packed(FunctionElement[str]):
    """All rows of some columns as one JSON text, a list of lists; of no rows NULL or an empty list. A third of the time that
    a driver takes to hand each value over.
    """

    name = "packed"
    type = Text()
    inherit_cache = True


@compiles(Packed, "sqlite")
def _packed_sqlite(element: Any, compiler: Any, **more: Any) -> str:
    return f"json_group_array(json_array({compiler.process(element.clauses, **more)}))"


@compiles(Packed, "postgresql")
def _packed_postgresql(element: Any, compiler: Any, **more: Any) -> str:
    return f"CAST(json_agg(json_build_array({compiler.process(element.clauses, **more)})) AS TEXT)"


def among(column: Any, values: Iterable[Any] | str) -> ColumnElement[bool]:
    """Return `column IN values`, with one parameter however many values: the statement is compiled once.

    `values` may be a parameter's name, to be given when the statement is executed.
    """
    of: Literal["numbers", "strings"] = "numbers" if isinstance(column.type, Integer) else "strings"
    if isinstance(values, str):
        return _Among(column, bindparam(values, type_=Many(of)))
    return _Among(column, bindparam(None, list(values), type_=Many(of)))


def between(column: Any) -> ColumnElement[bool]:
    """Return `first <= column <= last`, the two to be given when the statement is executed."""
    condition: ColumnElement[bool] = column.between(bindparam("first"), bindparam("last"))
    return condition


def chosen(numbers: Sequence[int], statement: Any, in_row: Any) -> tuple[Any, dict[str, Any]]:
    """Return the statement for rows of some numbers, which has them `among` its `numbers`, and its values; or `in_row`, which
    has them `between`, where they follow one another, as a set's do.
    """
    first, last = min(numbers), max(numbers)
    if last - first == len(numbers) - 1:
        return in_row, {"first": first, "last": last}
    return statement, {"numbers": numbers}


class _Unindexed(FunctionElement[Any]):
    name = "unindexed"
    inherit_cache = True

    def __init__(self, column: Any) -> None:
        super().__init__(column)
        self.type = column.type


@compiles(_Unindexed, "sqlite")
def _unindexed_sqlite(element: Any, compiler: Any, **more: Any) -> str:
    return f"+{compiler.process(element.clauses, **more)}"  # which costs nothing


@compiles(_Unindexed, "postgresql")
def _unindexed_postgresql(element: Any, compiler: Any, **more: Any) -> str:
    column = compiler.process(element.clauses, **more)
    return f"({column} + 0)" if isinstance(element.type, Integer | Double) else f"({column} || '')"


def unindexed(column: Any) -> Any:
    """Return the column so that the planner does not use its index: for where another one is known to be better."""
    return _Unindexed(column)


_MOST_VALUES = 999
"""So many values a statement takes on every SQLite."""


@lru_cache(maxsize=64)
def _insertion(table: type[Base], dialect: str, rows: int = 1) -> str:
    def quote(name: str) -> str:
        return f'"{name}"'

    columns = ", ".join(quote(column.name) for column in table.__table__.columns)
    if dialect == "postgresql":
        return f"COPY {quote(table.__tablename__)} ({columns}) FROM STDIN"
    places = ", ".join("?" for _ in table.__table__.columns)
    return f"INSERT INTO {quote(table.__tablename__)} ({columns}) VALUES {', '.join([f'({places})'] * rows)}"


def insert_rows(connection: Connection, table: type[Base], rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows, all columns in the table's order and as the database stores them, by the driver's fastest way."""
    if not rows:
        return
    dialect = connection.dialect.name
    if dialect == "postgresql":
        statement = _insertion(table, dialect)
        with connection.connection.cursor() as cursor, cursor.copy(statement) as copy:  # type: ignore[attr-defined]
            for row in rows:
                copy.write_row(row)
        return
    # As many as a statement takes at once: beginning one for each row is a quarter of the whole time.
    many = _MOST_VALUES // len(rows[0])
    whole = len(rows) // many * many
    if whole:
        together = [tuple(chain.from_iterable(rows[start : start + many])) for start in range(0, whole, many)]
        connection.exec_driver_sql(_insertion(table, dialect, many), together)
    if whole < len(rows):
        connection.exec_driver_sql(_insertion(table, dialect), list(rows[whole:]))


def rows_of(connection: Connection, statement: Any, values: dict[str, Any] | None = None) -> list[Any]:
    """Return a statement's rows as the driver gives them: for many rows of plain numbers and strings."""
    result: Any = connection.execute(statement, values)
    found: list[Any] = result.cursor.fetchall()
    result.close()
    return found


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
