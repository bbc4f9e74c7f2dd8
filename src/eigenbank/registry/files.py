"""Where eigenbank keeps its files, names that every system takes, and files that appear whole or not at all."""

import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from eigenbank.schemas.errors import CatalogError, EigenbankError

_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{port}{number}" for port in ("com", "lpt") for number in "123456789¹²³"]
)
"""Names that Windows reserves for devices, whatever follows their first dot."""


def home() -> Path:
    """Return the folder of the catalog and of the sets built here: `EIGENBANK_HOME`, else the platform's data folder."""
    chosen = os.environ.get("EIGENBANK_HOME")
    if not chosen:
        return Path(platformdirs.user_data_dir("eigenbank"))
    try:
        return Path(chosen).expanduser()
    except RuntimeError:
        problem = f"EIGENBANK_HOME is {chosen!r}, whose user is not known"
        raise CatalogError(problem, advice="Set it to a folder") from None


def catalog_file() -> Path | None:
    """The file of the catalog in use: what `EIGENBANK_CATALOG` names, else `catalog.db` at home. None for a server's database,
    and what names nothing; `catalog.place.locate` says what is wrong with it, but has to import SQLAlchemy.
    """
    named = os.environ.get("EIGENBANK_CATALOG")
    if not named:
        return home() / "catalog.db"
    scheme, url, rest = named.partition(":///")
    if url and scheme.partition("+")[0] != "sqlite":
        return None
    if "://" in (rest if url else named) or "\0" in named:
        return None
    return Path(rest if url else named).expanduser().absolute()


def sets_folder() -> Path:
    """Return the folder that holds the direction sets built on this machine."""
    return home() / "sets"


def readings_folder() -> Path:
    """Return the folder where labelling keeps its readings, so that an interrupted run continues; safe to delete."""
    return home() / "readings"


def file_name(text: str) -> str:
    """Turn a text into a file name for Linux, macOS and Windows; a valid one stays as it is.

    `/` becomes `--`, any other character than letters, digits, `_`, `.` and `-` becomes `-`, and a name of one of
    Windows' devices gets a `_` before it. Different texts can get one name, also where a file system takes `A` for `a`.
    """
    # Accented letters in one form: macOS' file systems treat the two forms as one name, the others as two.
    composed = unicodedata.normalize("NFC", text).replace("/", "--")
    plain = re.sub(r"[^\w.\-]", "-", composed)[:150].lstrip(".-").rstrip(".") or "unnamed"
    return f"_{plain}" if is_device(plain) else plain


def is_device(name: str) -> bool:
    """Whether Windows would take a file's name for one of its devices, as it does `aux.webp`."""
    return name.partition(".")[0].rstrip().casefold() in _DEVICES


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write to; moved over it when the block ends, removed when the block raises.

    A symbolic link is replaced, not followed. Raises OSError where the folder cannot be written to.
    """
    handle, name = tempfile.mkstemp(prefix=f".{target.name[:40]}-", suffix=".partial", dir=target.absolute().parent)
    os.close(handle)
    work = Path(name)
    try:
        yield work
        work.chmod(0o644)
        with work.open("r+b") as written:  # Windows flushes only what may be written to
            os.fsync(written.fileno())
        os.replace(work, target)
    finally:
        work.unlink(missing_ok=True)


def check_out(
    out: Path,
    suffixes: Sequence[str],
    kind: str,
    error: type[EigenbankError],
) -> None:
    """Raise `error`, before any work is done, for a file that cannot be written or does not end as its kind must.

    `suffixes` are the endings that a file of that kind may have, the usual one first.
    """
    problem = None
    try:
        parent = out.absolute().parent
        if out.suffix.lower() not in suffixes:
            problem = f"{out} does not end in {suffixes[0]}, as a {kind} file must"
        elif out.exists() and not out.is_file():
            problem = f"{out} exists and is no file"
        elif not parent.is_dir() or not os.access(parent, os.W_OK):
            problem = f"{parent} is no folder that can be written to"
    except (OSError, ValueError) as cause:  # a name too long for the file system, or with a null byte
        problem = f"{str(out)[:200]!r} cannot be written ({getattr(cause, 'strerror', None) or cause})"
    if problem is not None:
        raise error(problem)
