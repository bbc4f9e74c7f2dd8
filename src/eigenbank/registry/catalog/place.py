"""Where a catalog is, and whether a file can be one. Looks at a file's first bytes before SQLite may touch it."""

import contextlib
import os
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from eigenbank.registry.files import home
from eigenbank.schemas.errors import CatalogError

APPLICATION_ID = 0x45694264
"""`EiBd`, in the header of every catalog file: tells ours from other SQLite databases."""
SCHEMA_VERSION = 8
"""The number of the newest migration; `PRAGMA user_version` of a catalog."""

_MAGIC = b"SQLite format 3\x00"


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


def is_named(url: str | os.PathLike[str] | None) -> bool:
    """Whether somebody named the catalog that `locate` returns; the one at home is nobody's choice."""
    return url is not None or bool(os.environ.get("EIGENBANK_CATALOG"))


def check_parent(path: Path) -> None:
    """Raise CatalogError where the folder of a catalog that somebody named does not exist: the name may be mistyped."""
    if not path.parent.is_dir():
        message = (
            f"no catalog can be made at {path}: there is no folder {path.parent}. Nothing was made. Check the path (--catalog "
            "or EIGENBANK_CATALOG), or make the folder first."
        )
        raise CatalogError(message)


def check(path: Path, advice: str | None = None) -> None:
    """Refuse an existing file that cannot be a catalog, before anything is opened. Reads 100 bytes. `advice`: what happened
    to the data and what to do, where the file is not the catalog in use.

    Raises CatalogError for a folder, an unreadable or an empty file, what is not SQLite, a database of another
    program, or one cut short.
    """
    kept = advice or "Nothing was changed. Name another file with --catalog or EIGENBANK_CATALOG"
    if path.is_dir():
        more = "" if advice else f", such as {path / 'catalog.db'}"
        message = f"{path} is a folder, a catalog is one file. {kept}{more}."
        raise CatalogError(message)
    try:
        with path.open("rb") as file:
            header = file.read(100)
        size = path.stat().st_size
    except OSError as error:
        message = f"the catalog {path} cannot be read: {error.strerror or error}. {kept}."
        raise CatalogError(message) from error
    if not header:
        more = "" if advice else ", or delete it to start a new one there"
        message = f"{path} is empty, 0 bytes, where a catalog was expected. {kept}{more}."
        raise CatalogError(message)
    if len(header) < 100 or not header.startswith(_MAGIC):
        message = (
            f"{path} is not a catalog: expected an SQLite file, found one that begins with {header[:16]!r}. {kept}."
        )
        raise CatalogError(message)
    found = int.from_bytes(header[68:72], "big")
    if found != APPLICATION_ID:
        message = (
            f"{path} is an SQLite database of another program: expected application id {APPLICATION_ID:#010x}, "
            f"found {found:#010x}. {kept}."
        )
        raise CatalogError(message)
    page = int.from_bytes(header[16:18], "big")
    expected = int.from_bytes(header[28:32], "big") * (65_536 if page == 1 else page)
    wal = path.with_name(path.name + "-wal")
    # A log that is still to be copied in may hold the missing pages; then SQLite itself judges.
    if size < expected and not (wal.exists() and wal.stat().st_size):
        kept = advice or "Nothing was changed. Restore it from a copy, or move it away and add the sets again"
        message = f"the catalog {path} is cut short: its header says {expected:,} bytes, the file has {size:,}. {kept}."
        raise CatalogError(message)


def check_version(place: str, found: int, known: int = SCHEMA_VERSION) -> None:
    """Raise CatalogError for a catalog of a newer schema, or of none."""
    if found > known:
        message = (
            f"the catalog {place} has schema {found}, this eigenbank knows up to {known}: a newer eigenbank "
            "wrote it. Nothing was changed. Update with `pip install -U eigenbank`, or name another catalog with "
            "--catalog or EIGENBANK_CATALOG."
        )
        raise CatalogError(message)
    if found < 1:
        message = (
            f"the catalog {place} says schema {found}, expected 1 to {known}: it is damaged. Nothing was "
            "changed. Restore it from a copy, or move it away and add the sets again."
        )
        raise CatalogError(message)
