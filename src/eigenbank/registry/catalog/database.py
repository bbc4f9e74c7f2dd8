"""The catalog's database: where it is, whether a file can be one, its transactions, and all in which SQLite and PostgreSQL differ.

Reading a file creates nothing and changes nothing: SQLite keeps a rollback journal, which only writers make, not a log beside the
file. Readers wait at most while a change is committed; writers take turns.
"""

import contextlib
import json
import os
import re
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    Connection,
    Engine,
    MetaData,
    QueuePool,
    StaticPool,
    TextClause,
    create_engine,
    event,
    inspect,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from eigenbank.registry.catalog.tables import VERSION, Base
from eigenbank.registry.files import home, open_regular
from eigenbank.schemas.common import MAX_MANIFEST_BYTES
from eigenbank.schemas.errors import CatalogError, first_problem
from eigenbank.schemas.printable import printable

APPLICATION_ID = 0x45694243
"""`EiBC`, in the header of every catalog file: tells ours from other SQLite databases. On a server, the number of writers' lock."""
BUSY_SECONDS = 60
"""How long one program waits for another."""
_MAX_WORD = 500
"""PostgreSQL takes words of up to 2 KB; no label, layer name or model id is longer than this."""
_NETWORK = re.compile(
    r"9p|afp(fs)?|afs|beegfs|ceph|cifs|coda|davfs|fuse\.(cephfs|gcsfuse|glusterfs|rclone|s3fs|sshfs)|glusterfs|gpfs|lustre"
    r"|ncp(fs)?|nfs[34]?|orangefs|panfs|smb(2|3|fs)|vboxsf|webdav"
)
"""File systems that several machines may use at once, by the names that Linux has for them."""
AGAIN = "Restore it from a copy, or move it away and add the sets again."
"""What to do about a catalog that is damaged."""
ELSEWHERE = "Nothing was changed. Name another file with `catalog=` or EIGENBANK_CATALOG."


# Where it is


def locate(url: str | os.PathLike[str] | None) -> Path | URL:
    """Return the file (absolute) or the database URL that is meant. None: `EIGENBANK_CATALOG`, else the one at home.

    Raises CatalogError for a URL of another kind of database, or one that names no file.
    """
    named = os.fspath(url) if url is not None else os.environ.get("EIGENBANK_CATALOG") or str(home() / "catalog.db")
    if "\x00" in named or not named.strip():
        message = f"the catalog's place is {named!r}: expected a path, sqlite:///PATH or postgresql+psycopg://…"
        raise CatalogError(message)
    scheme, is_url, rest = named.partition("://")
    kind = scheme.partition("+")[0]
    if not is_url:
        return Path(named).expanduser().absolute()
    if kind == "sqlite" and rest.startswith("/") and rest[1:] not in ("", ":memory:") and "?" not in rest:
        return Path(rest[1:]).expanduser().absolute()
    if kind == "postgresql":
        with contextlib.suppress(ArgumentError, ValueError):
            return make_url(named)
    # The name alone: what follows may hold a password.
    message = (
        f"{scheme}://… is not a catalog: expected a path, sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE."
    )
    raise CatalogError(message)


def make_folder(path: Path) -> None:
    """Create the folder of a catalog, if need be. Raises CatalogError where it cannot be, or lies on a network."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"no catalog can be created at {path}: {error.strerror or error}. {ELSEWHERE}"
        raise CatalogError(message) from error
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Raise CatalogError for a folder on a network, where a catalog would be damaged. Reads the list of mounts, on Linux."""
    kind = None
    with contextlib.suppress(OSError):
        kind = file_system(folder.resolve(), Path("/proc/mounts").read_text(encoding="utf-8", errors="replace"))
    if kind is not None and _NETWORK.fullmatch(kind):
        message = (
            f"{folder} is on a network ({kind}), where programs on several machines would damage a catalog. Nothing was "
            "changed. Keep the catalog on a local disk (`catalog=` or EIGENBANK_CATALOG), or share one on a PostgreSQL server: "
            "`catalog=postgresql+psycopg://USER@HOST/DATABASE`."
        )
        raise CatalogError(message)


def file_system(folder: Path, mounts: str) -> str | None:
    """Return the kind of file system that a folder (absolute, resolved) is on, by the text of /proc/mounts."""
    kinds = {}  # of two at the same place the later one lies on top
    for _, point, kind, *_ in (line.split(" ") for line in mounts.splitlines() if line.count(" ") > 1):
        # Blanks and the like are written as octal numbers.
        named = point.encode().decode("unicode_escape").encode("latin-1", "replace").decode(errors="replace")
        kinds[Path(named)] = kind
    return next((kinds[each] for each in (folder, *folder.parents) if each in kinds), None)


def is_catalog(path: Path, advice: str = ELSEWHERE) -> bool:
    """Whether a catalog is at a path: not where there is no file, or an empty one. Reads 100 bytes, before anything is opened.

    Raises CatalogError for what is no regular file, cannot be read, or is not a catalog. `advice`: what happened to the data
    and what to do.
    """
    try:
        with open_regular(path) as file:
            header = file.read(100)
    except FileNotFoundError:
        return False
    except OSError as error:
        message = f"the catalog {path} cannot be read: {error.strerror or error}. {advice}"
        raise CatalogError(message) from error
    application = int.from_bytes(header[68:72], "big")
    problem = None
    if header and (len(header) < 100 or not header.startswith(b"SQLite format 3\x00")):
        problem = f"is not a catalog: expected an SQLite file, found one that begins with {header[:16]!r}"
    elif header and application != APPLICATION_ID:
        expected = f"expected application id {APPLICATION_ID:#010x}, found {application:#010x}"
        problem = f"is an SQLite database of another program: {expected}"
    if problem is not None:
        message = f"{path} {problem}. {advice}"
        raise CatalogError(message)
    return bool(header)


# Connections and transactions


def _open_file(path: Path | None, mode: str) -> Engine:
    """Return an engine on a catalog file, None for a new one in memory. `mode` is SQLite's: `rwc` creates the file, `rw` does not."""

    def creator() -> sqlite3.Connection:
        name = ":memory:" if path is None else f"file:{quote(str(path))}?mode={mode}"
        # Transactions are begun below; the driver must not begin any by itself.
        return sqlite3.connect(name, BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=path is not None)

    # In memory, a second connection would see another catalog.
    engine = create_engine("sqlite+pysqlite://", creator=creator, poolclass=StaticPool if path is None else QueuePool)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        for pragma in (
            # Whoever made the file, opening it runs nothing of its own.
            "trusted_schema = OFF",
            "cell_size_check = ON",
            "cache_size = -64000",
            # A change that does not fit the cache would lock readers out before it is committed.
            "cache_spill = OFF",
            # Rows of one search lie far apart in a large catalog: mapped, each costs half of what a call to read it does.
            f"mmap_size = {4 * 2**30}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A reader that later turns writer can fail at once, without waiting: writers say so from the start.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql(f"PRAGMA query_only = {'OFF' if writes else 'ON'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _open_server(url: URL, name: str) -> Engine:
    """Return an engine on a PostgreSQL database. Raises CatalogError where the driver is not installed."""
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    try:
        return create_engine(url, connect_args={"connect_timeout": 10}, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        message = f"the catalog {name} needs psycopg: pip install 'eigenbank[postgres]'. Nothing was changed."
        raise CatalogError(message) from error


def is_server(connection: Connection) -> bool:
    """Whether the catalog is on a PostgreSQL server."""
    return connection.dialect.name == "postgresql"


class Database:
    """A database and its transactions. Errors that a user can act on are raised as CatalogError."""

    def __init__(self, place: Path | URL | None, name: str, mode: str = "rw") -> None:
        """Open a catalog's file, its database on a server, or one in memory; `name` stands in errors, `mode` is for files."""
        self.engine = _open_server(place, name) if isinstance(place, URL) else _open_file(place, mode)
        self.name = name

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection that sees one state of the catalog and cannot write."""
        with self._connected() as connection:
            if is_server(connection):
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """Yield a connection for a change: all of it or, where the block raises, nothing; and one at a time."""
        with self._connected() as plain:
            connection = plain.execution_options(writes=True)
            with connection.begin():
                if is_server(connection):
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_SECONDS}s'")
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({APPLICATION_ID})")
                yield connection

    def vacuum(self) -> None:
        """Give unused room back to the disk, and bring the database's statistics up to date."""
        with self._connected() as plain:
            if is_server(plain):
                plain.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM ANALYZE")
            else:
                driver: Any = plain.connection.driver_connection
                driver.execute("PRAGMA query_only = OFF")
                driver.execute("VACUUM")

    def copy_to(self, target: "Database") -> None:
        """Copy an SQLite database into another, page by page."""
        with self._connected() as reading, target._connected() as writing:
            drivers: list[Any] = [each.connection.driver_connection for each in (reading, writing)]
            drivers[0].backup(drivers[1])

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with self.engine.connect() as connection:
                yield connection
        except (DBAPIError, sqlite3.Error) as error:
            known = _explain(error, self.name)
            if known is None:
                raise
            raise known from error


# Statements


@lru_cache(maxsize=500)
def _statement(sql: str, server: bool) -> tuple[TextClause, list[str]]:
    many = r"= ANY (:\1)" if server else r"IN (SELECT value FROM json_each(:\1))"
    return text(re.sub(r"IN :(\w+)\*", many, sql)), re.findall(r":(\w+)", sql)


def run(connection: Connection, sql: str, **values: Any) -> Any:
    """Execute a statement with those of the named values that stand in it. `IN :names*` takes a list: one parameter, however long it
    is. A text that no database can hold, as a shell may give one, is NULL, which equals nothing.
    """
    server = is_server(connection)
    statement, names = _statement(sql, server)
    given = {}
    for name in names:
        value = values[name]
        if isinstance(value, list):
            value = list(filter(_storable, value)) if server else json.dumps(list(filter(_storable, value)))
        given[name] = value if _storable(value) else None
    return connection.execute(statement, given)


def _storable(value: object) -> bool:
    try:
        return not isinstance(value, str) or b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def by_index(connection: Connection, index: str | None) -> str:
    """Return what follows a table's name so that SQLite walks along one of its indexes, or the table itself; PostgreSQL sees to that
    by itself.
    """
    if is_server(connection):
        return ""
    return "NOT INDEXED" if index is None else f"INDEXED BY {index}"


def insert(connection: Connection, table: type[Base], rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows, all columns in the table's order, by the driver itself: SQLAlchemy's own way takes twice as long."""
    if rows:
        columns = [f'"{column.name}"' for column in table.__table__.columns]
        marks = ["%s" if is_server(connection) else "?"] * len(columns)
        statement = f"INSERT INTO {table.__tablename__} ({', '.join(columns)}) VALUES ({', '.join(marks)})"
        connection.exec_driver_sql(statement, list(rows))


# Tables and their version


def create_tables(connection: Connection) -> None:
    """Create all tables and the full-text index in an empty database."""
    Base.metadata.create_all(connection, checkfirst=False)
    # Not among the tables' own: said there, it would have SQLAlchemy import its PostgreSQL for every search.
    run(connection, "CREATE INDEX ix_directions_name_id ON directions (name_id) WHERE name_id IS NOT NULL")
    if is_server(connection):
        run(connection, "CREATE TABLE texts_fts (rowid INTEGER PRIMARY KEY, words TSVECTOR NOT NULL)")
        run(connection, "CREATE INDEX ix_texts_fts_words ON texts_fts USING gin (words)")
        run(connection, "CREATE TABLE catalog_version (version INTEGER NOT NULL)")
        run(connection, f"INSERT INTO catalog_version VALUES ({VERSION:d})")
    else:
        # Contentless: the texts are in their own table. The ascii tokenizer leaves everything but ASCII signs alone.
        run(connection, "CREATE VIRTUAL TABLE texts_fts USING fts5(words, content='', columnsize=0, tokenize='ascii')")
        run(connection, f"PRAGMA application_id = {APPLICATION_ID}")
        run(connection, f"PRAGMA user_version = {VERSION:d}")


def drop_tables(connection: Connection) -> None:
    """Drop all tables of a catalog, of whatever version."""
    run(connection, "DROP TABLE IF EXISTS texts_fts")
    found = MetaData()
    found.reflect(connection)
    found.drop_all(connection)


def version_of(connection: Connection, name: str) -> int | None:
    """Return the version of the catalog in a database; None for an empty one.

    Raises CatalogError for a newer version, for another program's tables, and for a file that brings statements of its own.
    """
    if is_server(connection):
        tables = inspect(connection).get_table_names()
        if tables and not {"catalog_version", "sets", "people_labels"}.issubset(tables):
            shown = ", ".join(sorted(tables)[:5])
            message = (
                f"{name} holds tables of another program ({shown}{', …' if len(tables) > 5 else ''}): expected an empty "
                "database, or a catalog. Nothing was changed. Create one with createdb and name it in the URL."
            )
            raise CatalogError(message)
        version = int(run(connection, "SELECT version FROM catalog_version").scalar_one()) if tables else None
    else:
        # 2 and 3 are columns that are computed.
        computed = "(SELECT count(*) FROM pragma_table_xinfo(m.name) x WHERE x.hidden IN (2, 3))"
        own = f"m.type IN ('view', 'trigger') OR m.type = 'table' AND {computed} > 0"
        brought = run(connection, f"SELECT m.name FROM sqlite_master m WHERE {own}").scalar()
        if brought is not None:
            message = (
                f"the catalog {name} holds {printable(brought)[:80]!r}, a view, trigger or computed column, which no catalog has: "
                f"somebody changed the file. Nothing was read. {AGAIN}"
            )
            raise CatalogError(message)
        tables = run(connection, "SELECT name FROM sqlite_master LIMIT 1").all()
        version = int(run(connection, "PRAGMA user_version").scalar_one()) if tables else None
    if version is not None and version > VERSION:
        message = (
            f"the catalog {name} is of version {version}, this eigenbank knows up to {VERSION}: a newer eigenbank wrote it. "
            "Nothing was changed. Upgrade with `pip install -U eigenbank`, or name another catalog with `catalog=` or "
            "EIGENBANK_CATALOG."
        )
        raise CatalogError(message)
    if version is not None and version < 1:
        message = f"the catalog {name} says it is of version {version}: it is damaged. Nothing was changed. {AGAIN}"
        raise CatalogError(message)
    return version


# The full-text index


def add_words(connection: Connection, texts: Iterable[tuple[int, Sequence[str]]]) -> None:
    """Put texts into the full-text index, given by their number and their words (`ranking.words`)."""
    if is_server(connection):
        # Made without PostgreSQL's parser. Words hold no ASCII signs: nothing in them needs quoting.
        statement = "INSERT INTO texts_fts (rowid, words) VALUES (%s, %s::tsvector)"
        rows = [
            (number, " ".join(f"'{word[:_MAX_WORD]}':{at}" for at, word in enumerate(words[:16_000], 1)))
            for number, words in texts
        ]
    else:
        statement = "INSERT INTO texts_fts (rowid, words) VALUES (?, ?)"
        rows = [(number, " ".join(words)) for number, words in texts]
    if rows:
        connection.exec_driver_sql(statement, rows)


def texts_with(connection: Connection, words: Sequence[str], *, prefix: bool) -> dict[int, str]:
    """Return the texts that hold words next to each other, by number; with `prefix`, the last one may go on."""
    if max(map(len, words)) > _MAX_WORD or len(words) > _MAX_WORD:
        return {}
    if is_server(connection):
        query = " <-> ".join(f"'{word}'" for word in words) + (":*" if prefix else "")
        condition = "texts_fts.words @@ CAST(:query AS tsquery)"
    else:
        query = " + ".join(f'"{word}"' for word in words) + ("*" if prefix else "")
        condition = "texts_fts MATCH :query"
    statement = f"SELECT t.id, t.text FROM texts_fts JOIN texts t ON t.id = texts_fts.rowid WHERE {condition}"
    return dict(run(connection, statement, query=query).all())


def size_of(connection: Connection, name: str) -> int:
    """Return how many bytes the catalog takes."""
    if not is_server(connection):
        return Path(name).stat().st_size if Path(name).exists() else 0
    return int(run(connection, "SELECT pg_database_size(current_database())").scalar_one())


# Errors

_DAMAGED = f"it is damaged. {AGAIN}"
_ANOTHERS = f"its tables are not a catalog's. {AGAIN}"
_BUSY = f"another program has been writing to it for {BUSY_SECONDS} seconds. Nothing was changed. Try again later."
_SQLITE_ERRORS = {
    # First: what follows in that message is the text itself.
    "could not decode": f"it holds a text that is none. {AGAIN}",
    "locked": _BUSY,
    "readonly": "it cannot be written to. Nothing was changed. Check the permissions of the file and of its folder.",
    "disk is full": "the disk is full. Nothing was changed. Make room and try again.",
    "malformed": _DAMAGED,
    "not a database": _DAMAGED,
    "no such": _ANOTHERS,
    "has no column": _ANOTHERS,
    "cannot modify": _ANOTHERS,
    "unable to open": "it cannot be opened. Nothing was changed. Check that its folder exists and may be written to.",
    "locking protocol": "too many programs opened it at once. Nothing was changed. Try again.",
    "disk i/o error": "reading or writing the disk failed. Check the disk, and that the folder still exists.",
}
"""What SQLite's messages mean, by what stands in them."""
_SERVER_ERRORS = {
    "55P03": _BUSY,
    "25006": "it is read-only. Nothing was changed.",
    "42501": "this user may not do that. Nothing was changed. Ask its owner for the rights to its tables.",
    "42": _ANOTHERS,
    "53": "the server is out of room. Nothing was changed. Make room and try again.",
    "08": "no connection to the server. Nothing was changed. Check that it runs, and the URL: host, port, user, database.",
    "57P": "the server shut down. Nothing was changed. Try again when it runs.",
    "22": "it cannot hold a value that was to be put in. Nothing was changed.",
    "28": "the server refused the login. Check the user and the password in the URL.",
    "3D000": "there is no such database. Create it with createdb, or check the URL.",
}
"""What PostgreSQL's error codes mean, by how they begin."""


def inflated(packed: bytes) -> bytes:
    """Return what was compressed. Raises ValueError for what is too large, or ends early."""
    opened = zlib.decompressobj()
    found = opened.decompress(packed, MAX_MANIFEST_BYTES)
    if not opened.eof:
        message = f"it ends early, or is of more than {MAX_MANIFEST_BYTES:,} bytes"
        raise ValueError(message)
    return found


@contextlib.contextmanager
def holding(what: str) -> Iterator[None]:
    """Raise CatalogError where the block cannot read something that a catalog holds: it is damaged, or somebody changed it."""
    try:
        yield
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError) as error:
        problem = first_problem(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        message = f"the catalog holds {what} that cannot be read ({problem}). {AGAIN}"
        raise CatalogError(message) from error


def _explain(error: DBAPIError | sqlite3.Error, name: str) -> CatalogError | None:
    """Return a database's error in words that a user can act on; None where it is a bug of ours."""
    original: Any = error.orig if isinstance(error, DBAPIError) else error
    if hasattr(original, "sqlstate"):
        # The driver may not be installed: its class is told by name.
        lost = any(kind.__name__ == "OperationalError" for kind in type(original).__mro__)
        state = original.sqlstate or ("08" if lost else "")
        meaning = next((words for sign, words in _SERVER_ERRORS.items() if state.startswith(sign)), None)
    else:
        said = str(original).lower()
        meaning = next((words for sign, words in _SQLITE_ERRORS.items() if sign in said), None)
    if meaning is None:
        return None
    first = printable(str(original).strip().partition("\n")[0])
    return CatalogError(f"the catalog {name} cannot be used: {meaning} ({first})")
