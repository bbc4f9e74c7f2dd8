"""The catalog's database: where it is, whether a file can be one, creating it, and its transactions.

A reader writes nothing. A file that nobody is writing to is read as it lies, without locks, log or shared memory; should another
program write to it meanwhile, the question is asked again, then by SQLite's own rules. Where there is no catalog yet, readers get
one in memory.
"""

import contextlib
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from eigenbank.registry.catalog import dialects
from eigenbank.registry.catalog.dialects import APPLICATION_ID, connect_file, explain
from eigenbank.registry.catalog.tables import VERSION
from eigenbank.registry.files import home
from eigenbank.schemas.errors import CatalogError

T = TypeVar("T")
P = ParamSpec("P")

_MAGIC = b"SQLite format 3\x00"
_SETTLED = 50_000_000
"""So many nanoseconds after its last change a file's time tells of the next one: clocks of file systems are coarse."""
_NETWORK = frozenset(
    [
        "9p",
        "afp",
        "afpfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "fuse.cephfs",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncp",
        "ncpfs",
        "nfs",
        "nfs3",
        "nfs4",
        "orangefs",
        "panfs",
        "smb2",
        "smb3",
        "smbfs",
        "vboxsf",
        "webdav",
    ]
)
"""File systems that several machines may use at once, by the names that Linux has for them."""


# Where it is


def locate(url: str | os.PathLike[str] | None) -> Path | URL:
    """Return the file (absolute) or the database URL that is meant. None: `EIGENBANK_CATALOG`, else the one at home.

    Raises CatalogError for a URL of another kind of database, or one that names no file.
    """
    text = os.fspath(url) if url is not None else os.environ.get("EIGENBANK_CATALOG") or str(home() / "catalog.db")
    if "\x00" in text or not text.strip():
        message = f"the catalog's place is {text!r}: expected a path, sqlite:///PATH or postgresql+psycopg://…"
        raise CatalogError(message)
    if "://" not in text:
        return Path(text).expanduser().absolute()
    scheme, _, rest = text.partition("://")
    kind = scheme.partition("+")[0]
    if kind == "sqlite" and rest.startswith("/") and rest[1:] not in ("", ":memory:") and "?" not in rest:
        return Path(rest[1:]).expanduser().absolute()
    if kind == "postgresql":
        with contextlib.suppress(ArgumentError, ValueError):
            return make_url(text)
    # The name alone: what follows may hold a password.
    message = (
        f"{scheme}://… is not a catalog: expected a path, sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE."
    )
    raise CatalogError(message)


def name_of(place: Path | URL) -> str:
    """Return a catalog's file, or its URL without the password."""
    return str(place) if isinstance(place, Path) else place.render_as_string(hide_password=True)


def check_parent(path: Path, url: str | os.PathLike[str] | None = None) -> None:
    """Raise CatalogError where the folder of a catalog that somebody named, by `url` or the environment, does not exist: the name
    may be mistyped.
    """
    named = url is not None or bool(os.environ.get("EIGENBANK_CATALOG"))
    if named and not path.parent.is_dir():
        message = (
            f"no catalog can be created at {path}: there is no folder {path.parent}. Nothing was created. Check the path "
            "(--catalog or EIGENBANK_CATALOG), or create the folder first."
        )
        raise CatalogError(message)


def check_file(path: Path, advice: str | None = None) -> None:
    """Refuse an existing file that cannot be a catalog, before anything is opened. Reads 100 bytes. `advice`: what happened
    to the data and what to do, where the file is not the catalog in use.

    Raises CatalogError for a folder, an unreadable or an empty file, what is not SQLite, a database of another
    program, or one cut short.
    """
    kept = advice or "Nothing was changed. Name another file with --catalog or EIGENBANK_CATALOG"
    problem = None
    if path.is_dir():
        more = "" if advice else f", such as {path / 'catalog.db'}"
        message = f"{path} is a folder, a catalog is one file. {kept}{more}."
        raise CatalogError(message)
    try:
        with path.open("rb") as file:
            header = file.read(100)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        message = f"the catalog {path} cannot be read: {error.strerror or error}. {kept}."
        raise CatalogError(message) from error
    found = int.from_bytes(header[68:72], "big")
    page = int.from_bytes(header[16:18], "big")
    expected = int.from_bytes(header[28:32], "big") * (65_536 if page == 1 else page)
    if not header:
        problem = "is empty, 0 bytes, where a catalog was expected"
        kept += "" if advice else ", or delete it to start a new one there"
    elif len(header) < 100 or not header.startswith(_MAGIC):
        problem = f"is not a catalog: expected an SQLite file, found one that begins with {header[:16]!r}"
    elif found != APPLICATION_ID:
        problem = f"is an SQLite database of another program: expected application id {APPLICATION_ID:#010x}, found {found:#010x}"
    elif size < expected and not _log_size(path):  # a log that is still to be copied in may hold the missing pages
        problem = f"is cut short: its header says {expected:,} bytes, the file has {size:,}"
        kept = advice or "Nothing was changed. Restore it from a copy, or move it away and add the sets again"
    if problem is not None:
        message = f"{path} {problem}. {kept}."
        raise CatalogError(message)


def _log_size(path: Path) -> int | None:
    """Bytes of the log that writers keep beside a catalog; None where there is none."""
    try:
        return path.with_name(path.name + "-wal").stat().st_size
    except OSError:
        return None


def check_version(place: str, found: int) -> None:
    """Raise CatalogError for a catalog of a newer version, or of none."""
    if found > VERSION:
        message = (
            f"the catalog {place} is of version {found}, this eigenbank knows up to {VERSION}: a newer eigenbank wrote it. "
            "Nothing was changed. Upgrade with `pip install -U eigenbank`, or name another catalog with --catalog or "
            "EIGENBANK_CATALOG."
        )
        raise CatalogError(message)
    if found < 1:
        message = (
            f"the catalog {place} says it is of version {found}: it is damaged. Nothing was changed. {dialects.AGAIN}"
        )
        raise CatalogError(message)


def file_system(folder: Path, mounts: str) -> str | None:
    """Return the kind of file system that a folder (absolute, resolved) is on, by the text of /proc/mounts."""
    best, kind = -1, None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        # Blanks and the like are written as octal numbers.
        point = fields[1].encode().decode("unicode_escape").encode("latin-1", "replace").decode(errors="replace")
        if folder == Path(point) or Path(point) in folder.parents:
            depth = len(Path(point).parts)
            if depth >= best:  # of two at the same place the later one lies on top
                best, kind = depth, fields[2]
    return kind


def check_folder(folder: Path) -> None:
    """Raise CatalogError for a folder on a network, where a catalog would be damaged. Reads the list of mounts, on Linux."""
    kind = None
    with contextlib.suppress(OSError):
        kind = file_system(folder.resolve(), Path("/proc/mounts").read_text(encoding="utf-8", errors="replace"))
    if kind in _NETWORK:
        message = (
            f"{folder} is on a network ({kind}), where programs on several machines would damage a catalog. Nothing was "
            "changed. Keep the catalog on a local disk (--catalog or EIGENBANK_CATALOG), or share one on a PostgreSQL server: "
            "--catalog postgresql+psycopg://USER@HOST/DATABASE."
        )
        raise CatalogError(message)


# Creating one


def create(path: Path) -> None:
    """Create a catalog at `path`, whole or not at all; where another process is faster, its catalog stays. Raises CatalogError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_folder(path.parent)
        _sweep(path)
        try:
            database = Database(connect_file(temporary, "rwc"), str(path))
            try:
                database.write(dialects.create_tables, VERSION)
            finally:
                database.close()
            # The driver alone: SQLAlchemy would wrap the change of journal in a transaction, where SQLite ignores it.
            with contextlib.closing(sqlite3.connect(temporary)) as plain:
                plain.execute("PRAGMA journal_mode = WAL")
            try:
                os.link(temporary, path)
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links
                if not path.exists():
                    temporary.replace(path)
        finally:
            remove_file(temporary)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        message = (
            f"no catalog can be created at {path}: {reason}. Nothing was changed. Name another file with --catalog or "
            "EIGENBANK_CATALOG."
        )
        raise CatalogError(message) from error


def remove_file(path: Path) -> None:
    """Remove a catalog's file, and what SQLite keeps beside it."""
    for end in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what killed programs left beside a catalog while they were creating it. Those still at it are let alone."""
    pattern = re.escape(f".{path.name}") + r"\.(?P<pid>\d+)-[0-9a-f]{8}\.new(-wal|-shm|-journal)?"
    with contextlib.suppress(OSError):
        for entry in list(path.parent.iterdir()):
            found = re.fullmatch(pattern, entry.name)
            if found is not None and not _alive(int(found["pid"])):
                entry.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


# Transactions


class Database:
    """A database and its transactions. Errors that a user can act on are raised as CatalogError."""

    def __init__(self, engine: Engine, place: str) -> None:
        self.engine = engine
        self.place = place

    def read(self, ask: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `ask` says of one state of the catalog; it is given a connection, and must not write."""
        with guarded(self.place):
            return self._asked(self.engine, ask, *args, **kwargs)

    def write(self, change: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a change, given as a function of a connection: all of it or nothing, and one at a time. Returns what it returns."""
        with guarded(self.place), self.engine.connect() as plain:
            connection = plain.execution_options(writes=True)
            with connection.begin():
                dialects.take_turn(connection)
                return change(connection, *args, **kwargs)

    @staticmethod
    def _asked(engine: Engine, ask: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with engine.connect() as plain:
            connection = dialects.for_reading(plain)
            with connection.begin():
                return ask(connection, *args, **kwargs)

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()


class Untouched(Database):
    """A catalog's file that is only read. While nobody writes to it, it is read as it lies (SQLite's `immutable`): nothing is
    created beside it and no lock is taken, as SQLite's log would need.
    """

    def __init__(self, path: Path) -> None:
        shared = path.with_name(path.name + "-shm").exists()
        # Where SQLite cannot put its log, nobody else can be writing either.
        self._still = not shared and not os.access(path.parent, os.W_OK)
        mode = "ro&immutable=1" if self._still else "rw" if os.access(path, os.W_OK) else "ro"
        super().__init__(connect_file(path, mode), str(path))
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._immutable: Engine | None = None

    def read(self, ask: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `ask` says of one state of the catalog. It may be asked twice."""
        stamp = None if self._still else self._state()
        if stamp is not None:
            try:
                with guarded(self.place):
                    found = self._asked(self._reader(stamp), ask, *args, **kwargs)
            except CatalogError:
                if self._state() == stamp:
                    raise
            else:
                if self._state() == stamp:
                    return found
        return super().read(ask, *args, **kwargs)

    def _state(self) -> tuple[int, int, int] | None:
        """What changes whenever the file does; None where somebody is writing to it, or has just been."""
        if _log_size(self._path) is not None:
            return None
        found = self._path.stat()
        if abs(time.time_ns() - found.st_mtime_ns) < _SETTLED:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _reader(self, stamp: tuple[int, int, int]) -> Engine:
        if self._immutable is None or stamp != self._stamp:
            self._close_reader()
            self._immutable, self._stamp = connect_file(self._path, "ro&immutable=1"), stamp
        return self._immutable

    def _close_reader(self) -> None:
        if self._immutable is not None:
            self._immutable.dispose()

    def close(self) -> None:
        """Close the connections."""
        self._close_reader()
        super().close()


@contextmanager
def guarded(place: str) -> Iterator[None]:
    """Raise what a database says as CatalogError, where a user can act on it."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        known = explain(error, place)
        if known is None:
            raise
        raise known from error
