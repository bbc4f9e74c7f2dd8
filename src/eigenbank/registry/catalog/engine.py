"""Connections and transactions: pragmas, who may write, and database errors in words."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from eigenbank.schemas.errors import CatalogError

BUSY_SECONDS = 60.0
"""How long a writer waits for another one. Writes are short; readers never wait."""

MAPPED = 4 * 2**30
"""Up to so many bytes of a catalog's file are mapped into memory rather than read block by block."""

WRITERS = 0x45694264
"""The number of the lock that PostgreSQL's writers wait for each other at."""

AGAIN = "Restore it from a copy, or move it away and add the sets again."
"""What to do about a catalog that is damaged."""

_TROUBLE = (
    # First: what follows in that message is the text itself.
    ("could not decode", f"it holds a text that is none. {AGAIN}"),
    ("locked", "another program has been writing to it for {busy:.0f} seconds. Nothing was changed. Try again later."),
    ("readonly", "it cannot be written to. Nothing was changed. Check the permissions of the file and of its folder."),
    ("disk is full", "the disk is full. Nothing was changed. Make room and try again."),
    ("malformed", f"it is damaged. {AGAIN}"),
    ("not a database", f"it is damaged. {AGAIN}"),
    *(
        (sign, f"its tables are not a catalog's. {AGAIN}")
        for sign in ("no such column", "no such table", "has no column", "foreign key mismatch", "cannot modify")
    ),
    ("cannot hold blob", f"it holds bytes for a text. {AGAIN}"),
    ("unable to open", "it cannot be opened. Nothing was changed. Check that its folder exists and may be written to."),
    ("locking protocol", "too many programs opened it at once. Nothing was changed. Try again."),
    ("disk i/o error", "reading or writing the disk failed. Check the disk, and that the folder still exists."),
)

_STATES = {
    "55P03": f"another program has been writing to it for {BUSY_SECONDS:.0f} seconds. Nothing was changed. Try again later.",
    "25006": "it is read-only. Nothing was changed.",
    "42501": "this user may not do that. Nothing was changed. Ask its owner for the rights to its tables.",
    "53": "the server is out of room. Nothing was changed. Make room and try again.",
    "08": "no connection to the server. Nothing was changed. Check that it runs, and the URL: host, port, user, database.",
    "57P": "the server shut down. Nothing was changed. Try again when it runs.",
    "22": "it cannot hold a value that was to be put in. Nothing was changed.",
    "28": "the server refused the login. Check the user and the password in the URL.",
    "3D000": "there is no such database. Make it with createdb, or check the URL.",
}
"""What PostgreSQL's error codes mean, by how they begin."""


def connect(path: Path, mode: str) -> Engine:
    """Return an engine on a catalog file. `mode` is SQLite's: `rwc` creates, `rw` does not, `ro` only reads."""

    def creator() -> sqlite3.Connection:
        # Transactions are begun below; the driver must not begin any by itself.
        return sqlite3.connect(
            f"file:{quote(str(path))}?mode={mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )

    engine = create_engine("sqlite+pysqlite://", creator=creator)

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -64000")
        # Rows of one search lie far apart in a large catalog: mapped, each costs half of what a call to read it does.
        connection.execute(f"PRAGMA mmap_size = {MAPPED}")
        connection.execute("PRAGMA trusted_schema = OFF")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A reader that later turns writer can fail at once, without waiting: writers say so from the start.
        immediate = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def printable(text: object) -> str:
    """Return a text that may come from a file without what a terminal would act on."""
    return "".join(sign if sign.isprintable() else "?" for sign in str(text))


def explain(error: Exception, place: str) -> CatalogError | None:
    """Return the error, SQLAlchemy's or the driver's own, as a user can understand it; None where it is a bug of ours."""
    original = error.orig if isinstance(error, DBAPIError) else error
    text = str(original).lower()
    if hasattr(original, "sqlstate"):
        # The driver may not be installed: its class is told by name.
        lost = any(kind.__name__ == "OperationalError" for kind in type(original).__mro__)
        state = getattr(original, "sqlstate", None) or ("08" if lost else "")
        meaning = next((words for sign, words in _STATES.items() if state.startswith(sign)), None)
        first = str(original).strip().partition("\n")[0]
        return None if meaning is None else CatalogError(f"the catalog {place} cannot be used: {meaning} ({first})")
    for sign, meaning in _TROUBLE:
        if sign in text:
            message = f"the catalog {place} cannot be used: {meaning.format(busy=BUSY_SECONDS)} ({printable(original)})"
            return CatalogError(message)
    return None


class Database:
    """A database and its transactions. Errors that a user can act on are raised as CatalogError."""

    def __init__(self, engine: Engine, place: str) -> None:
        self.engine = engine
        self.place = place

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.engine.dialect.name

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that reads one state of the catalog."""
        with self.guarded(), self.engine.connect() as plain:
            connection = plain
            if self.dialect == "postgresql":
                connection = plain.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self, *, much: bool = False) -> Iterator[Connection]:
        """A transaction that writes: all of it or nothing. One at a time; `much` gives it more memory."""
        with self.guarded(), self.engine.connect() as plain:
            connection = plain.execution_options(writes=True)
            if much and self.dialect == "sqlite":
                driver: Any = plain.connection.driver_connection
                driver.execute("PRAGMA cache_size = -512000")
            with connection.begin():
                if self.dialect == "postgresql":
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_SECONDS:.0f}s'")
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS})")
                yield connection

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Raise what the database says as CatalogError, where a user can act on it."""
        try:
            yield
        except Exception as error:
            # Rows are fetched from the driver itself, and put in by it.
            told = isinstance(error, DBAPIError | sqlite3.Error) or hasattr(error, "sqlstate")
            if told and (known := explain(error, self.place)) is not None:
                raise known from error
            raise

    def close(self) -> None:
        self.engine.dispose()
