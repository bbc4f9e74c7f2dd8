"""Where SQLite and PostgreSQL differ: connections, the full-text index, lists as parameters, the version, errors, and sizes."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    URL,
    Boolean,
    ColumnElement,
    Connection,
    Dialect,
    Engine,
    Integer,
    QueuePool,
    Text,
    bindparam,
    create_engine,
    event,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from eigenbank.registry.catalog.tables import Base
from eigenbank.schemas.errors import CatalogError

APPLICATION_ID = 0x45694243
"""`EiBC`, in the header of every catalog file: tells ours from other SQLite databases."""
BUSY_SECONDS = 60
"""How long a writer waits for another one. Readers of a file never wait."""
_WRITERS = APPLICATION_ID
"""The number of the lock that PostgreSQL's writers wait for each other at."""
_MAX_WORD = 500
"""PostgreSQL takes words of up to 2 KB; no label, layer name or model id is longer than this."""


def is_server(connection: Connection) -> bool:
    """Whether the catalog is on a PostgreSQL server."""
    return connection.dialect.name == "postgresql"


# Connections


def connect_file(path: Path | None, mode: str = "rw") -> Engine:
    """Return an engine on a catalog file, None for a new one in memory. `mode` is SQLite's: `rwc`, `rw`, `ro`, `ro&immutable=1`."""

    def creator() -> sqlite3.Connection:
        name = ":memory:" if path is None else f"file:{quote(str(path))}?mode={mode}"
        # Transactions are begun below; the driver must not begin any by itself.
        return sqlite3.connect(name, BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=path is not None)

    # In memory, a second connection would see another catalog.
    kind = {"pool_size": 1, "max_overflow": 0} if path is None else {}
    engine = create_engine("sqlite+pysqlite://", creator=creator, poolclass=QueuePool, **kind)

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, record: Any) -> None:
        for pragma in (
            "foreign_keys = ON",
            "synchronous = NORMAL",
            "cache_size = -64000",
            # Rows of one search lie far apart in a large catalog: mapped, each costs half of what a call to read it does.
            f"mmap_size = {4 * 2**30}",
            "trusted_schema = OFF",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A reader that later turns writer can fail at once, without waiting: writers say so from the start.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def connect_server(url: URL, place: str) -> Engine:
    """Return an engine on a PostgreSQL database. Raises CatalogError where the driver is not installed."""
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    try:
        return create_engine(url, connect_args={"connect_timeout": 10}, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        message = f"the catalog {place} needs psycopg: pip install 'eigenbank[postgres]'. Nothing was changed."
        raise CatalogError(message) from error


def for_reading(connection: Connection) -> Connection:
    """Return the connection set up so that its next transaction reads one state."""
    if not is_server(connection):
        return connection
    return connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def take_turn(connection: Connection) -> None:
    """Wait until no other program writes, in a transaction that was begun to write."""
    if is_server(connection):
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_SECONDS}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS})")
    else:
        # Of a million directions, every page that an insertion needs would otherwise be read and written many times.
        connection.exec_driver_sql("PRAGMA cache_size = -512000")


# Tables and their version


def create_tables(connection: Connection, version: int) -> None:
    """Create all tables and the full-text index in an empty database."""
    Base.metadata.create_all(connection)
    # As text: SQLAlchemy would load PostgreSQL's dialect, and asyncio with it, for a condition on an index.
    composites = "CREATE INDEX ix_directions_name_id ON directions (name_id) WHERE name_id IS NOT NULL"
    connection.exec_driver_sql(composites)
    if is_server(connection):
        connection.exec_driver_sql("CREATE TABLE texts_fts (rowid INTEGER PRIMARY KEY, words TSVECTOR NOT NULL)")
        connection.exec_driver_sql("CREATE INDEX ix_texts_fts_words ON texts_fts USING gin (words)")
        connection.exec_driver_sql("CREATE TABLE catalog_version (version INTEGER NOT NULL)")
        connection.exec_driver_sql(f"INSERT INTO catalog_version VALUES ({version:d})")
    else:
        # Contentless: the texts are in their own table. The ascii tokenizer leaves everything but ASCII signs alone.
        connection.exec_driver_sql(
            "CREATE VIRTUAL TABLE texts_fts USING fts5(words, content='', columnsize=0, tokenize='ascii')"
        )
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.exec_driver_sql(f"PRAGMA user_version = {version:d}")


def tables(connection: Connection) -> set[str]:
    """Return the names of the tables in the database."""
    if is_server(connection):
        statement = "SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = current_schema()"
    else:
        statement = "SELECT name FROM sqlite_master WHERE type = 'table'"
    return set(connection.exec_driver_sql(statement).scalars())


def drop_tables(connection: Connection) -> None:
    """Drop all tables of a catalog, of whatever version."""
    found = {name for name in tables(connection) if not name.startswith("sqlite_")}
    if is_server(connection):
        for name in found:
            connection.exec_driver_sql(f'DROP TABLE "{name}" CASCADE')
        return
    connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
    connection.exec_driver_sql("DROP TABLE IF EXISTS texts_fts")
    # Those that refer to others first: dropping a table deletes its rows, and so checks who refers to them.
    order = [table.name for table in reversed(Base.metadata.sorted_tables)]
    for name in sorted(found, key=lambda name: order.index(name) if name in order else -1):
        connection.exec_driver_sql(f'DROP TABLE IF EXISTS "{name}"')


def version_of(connection: Connection, place: str) -> int | None:
    """Return the version of the catalog in a database; None for an empty one. Raises CatalogError for another program's tables."""
    if not is_server(connection):
        return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    found = tables(connection)
    if not found:
        return None
    if not {"catalog_version", "sets", "people_labels"} <= found:
        shown = ", ".join(sorted(found)[:5])
        message = (
            f"{place} holds tables of another program ({shown}{', …' if len(found) > 5 else ''}): expected an empty "
            "database, or a catalog. Nothing was changed. Create one with createdb and name it in the URL."
        )
        raise CatalogError(message)
    return int(connection.exec_driver_sql("SELECT version FROM catalog_version").scalar_one())


def may_write(connection: Connection) -> bool:
    """Whether this user may change the catalog on a server; a new one is theirs."""
    statement = (
        "SELECT bool_and(has_table_privilege(oid, 'INSERT, UPDATE, DELETE')) FROM pg_catalog.pg_class "
        "WHERE relname = 'directions' AND relnamespace = to_regnamespace(current_schema())::oid"
    )
    standby = connection.exec_driver_sql("SELECT pg_is_in_recovery()").scalar()
    return not standby and connection.exec_driver_sql(statement).scalar() is not False


# The full-text index


def add_words(connection: Connection, texts: Iterable[tuple[int, Sequence[str]]]) -> None:
    """Put texts into the full-text index, given by their number and their words (`ranking.words`)."""
    rows = list(texts)
    if not rows:
        return
    if is_server(connection):
        # Made without PostgreSQL's parser. Words hold no ASCII signs: nothing in them needs quoting.
        vectors = [
            (number, " ".join(f"'{word[:_MAX_WORD]}':{at}" for at, word in enumerate(words[:16_000], 1)))
            for number, words in rows
        ]
        connection.exec_driver_sql("INSERT INTO texts_fts (rowid, words) VALUES (%s, %s::tsvector)", vectors)
    else:
        joined = [(number, " ".join(words)) for number, words in rows]
        connection.exec_driver_sql("INSERT INTO texts_fts (rowid, words) VALUES (?, ?)", joined)


def texts_with(connection: Connection, words: Sequence[str], *, prefix: bool) -> set[int]:
    """Return the numbers of the texts that hold words next to each other; with `prefix`, the last one may go on."""
    if max(map(len, words)) > _MAX_WORD or len(words) > _MAX_WORD:
        return set()
    if is_server(connection):
        query = " <-> ".join(f"'{word}'" for word in words) + (":*" if prefix else "")
        found = connection.exec_driver_sql("SELECT rowid FROM texts_fts WHERE words @@ %s::tsquery", (query,))
    else:
        query = " + ".join(f'"{word}"' for word in words) + ("*" if prefix else "")
        found = connection.exec_driver_sql("SELECT rowid FROM texts_fts WHERE texts_fts MATCH ?", (query,))
    return set(found.scalars())


# Lists as one parameter


class _Many(TypeDecorator[Any]):
    """A list as one parameter: a JSON text for SQLite, an array for PostgreSQL."""

    impl = Text
    cache_ok = True

    def __init__(self, *, numbers: bool = True) -> None:
        super().__init__()
        self.numbers = numbers

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name != "postgresql":
            return dialect.type_descriptor(Text())
        from sqlalchemy.dialects.postgresql import ARRAY

        element: TypeEngine[Any] = Integer() if self.numbers else Text()
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


def among(column: Any, values: Iterable[Any]) -> ColumnElement[bool]:
    """Return `column IN values`, with one parameter however many values: no limit, and the statement is compiled once."""
    return _Among(column, bindparam(None, list(values), type_=_Many(numbers=isinstance(column.type, Integer))))


# Room and soundness


def size_of(connection: Connection, place: str) -> int:
    """Return how many bytes the catalog takes."""
    if is_server(connection):
        statement = (
            "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c "
            "WHERE c.relkind = 'r' AND c.relnamespace = to_regnamespace(current_schema())::oid"
        )
        return int(connection.exec_driver_sql(statement).scalar_one())
    path = Path(place)
    return sum(file.stat().st_size for file in (path, path.with_name(path.name + "-wal")) if file.exists())


def tidy(engine: Engine) -> None:
    """Give unused room back to the disk, and bring the database's statistics up to date."""
    with engine.connect() as plain:
        if engine.dialect.name == "postgresql":
            plain.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM ANALYZE")
        else:
            driver: Any = plain.connection.driver_connection
            driver.execute("VACUUM")
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def copy_file(source: Engine, target: Engine) -> None:
    """Copy one SQLite database into another, page by page."""
    with source.connect() as reading, target.connect() as writing:
        drivers: list[Any] = [each.connection.driver_connection for each in (reading, writing)]
        drivers[0].backup(drivers[1])


def damage(connection: Connection) -> list[str]:
    """Return what a database says is wrong with it."""
    if is_server(connection):
        return []
    found = [row for row in connection.exec_driver_sql("PRAGMA integrity_check").scalars() if row != "ok"]
    for table, row, other, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        found.append(f"table {table}: {'a row' if row is None else f'row {row}'} refers to nothing in {other}")
    return found


# Errors

AGAIN = "Restore it from a copy, or move it away and add the sets again."
"""What to do about a catalog that is damaged."""

_SQLITE_ERRORS = (
    # First: what follows in that message is the text itself.
    ("could not decode", f"it holds a text that is none. {AGAIN}"),
    (
        "locked",
        f"another program has been writing to it for {BUSY_SECONDS} seconds. Nothing was changed. Try again later.",
    ),
    ("readonly", "it cannot be written to. Nothing was changed. Check the permissions of the file and of its folder."),
    ("disk is full", "the disk is full. Nothing was changed. Make room and try again."),
    ("malformed", f"it is damaged. {AGAIN}"),
    ("not a database", f"it is damaged. {AGAIN}"),
    *(
        (sign, f"its tables are not a catalog's. {AGAIN}")
        for sign in ("no such column", "no such table", "has no column", "foreign key mismatch", "cannot modify")
    ),
    ("unable to open", "it cannot be opened. Nothing was changed. Check that its folder exists and may be written to."),
    ("locking protocol", "too many programs opened it at once. Nothing was changed. Try again."),
    ("disk i/o error", "reading or writing the disk failed. Check the disk, and that the folder still exists."),
)
_SERVER_ERRORS = {
    "55P03": f"another program has been writing to it for {BUSY_SECONDS} seconds. Nothing was changed. Try again later.",
    "25006": "it is read-only. Nothing was changed.",
    "42501": "this user may not do that. Nothing was changed. Ask its owner for the rights to its tables.",
    "53": "the server is out of room. Nothing was changed. Make room and try again.",
    "08": "no connection to the server. Nothing was changed. Check that it runs, and the URL: host, port, user, database.",
    "57P": "the server shut down. Nothing was changed. Try again when it runs.",
    "22": "it cannot hold a value that was to be put in. Nothing was changed.",
    "28": "the server refused the login. Check the user and the password in the URL.",
    "3D000": "there is no such database. Create it with createdb, or check the URL.",
}
"""What PostgreSQL's error codes mean, by how they begin."""


def printable(text: object) -> str:
    """Return a text that may come from a file without what a terminal would act on."""
    return "".join(sign if sign.isprintable() else "?" for sign in str(text))


def explain(error: DBAPIError | sqlite3.Error, place: str) -> CatalogError | None:
    """Return a database's error in words that a user can act on; None where it is a bug of ours."""
    original: Any = error.orig if isinstance(error, DBAPIError) else error
    if hasattr(original, "sqlstate"):
        # The driver may not be installed: its class is told by name.
        lost = any(kind.__name__ == "OperationalError" for kind in type(original).__mro__)
        state = original.sqlstate or ("08" if lost else "")
        meaning = next((words for sign, words in _SERVER_ERRORS.items() if state.startswith(sign)), None)
    else:
        text = str(original).lower()
        meaning = next((words for sign, words in _SQLITE_ERRORS if sign in text), None)
    if meaning is None:
        return None
    first = printable(str(original).strip().partition("\n")[0])
    return CatalogError(f"the catalog {place} cannot be used: {meaning} ({first})")
