"""Where eigenbank keeps its files, files read within bounds, and files that appear whole or not at all.

Every file that somebody else may have made is opened by `open_regular`, and all JSON from outside is parsed by `parse_json`.
"""

import errno
import json
import os
import re
import shutil
import stat
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import platformdirs

from eigenbank.schemas.errors import CatalogError, EigenbankError

if TYPE_CHECKING:
    from pydantic import BaseModel

_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{port}{number}" for port in ("com", "lpt") for number in "123456789¹²³"]
)
"""Names that Windows reserves for devices, whatever follows their first dot."""
M = TypeVar("M", bound="BaseModel")
MAX_VALUES = 4_000_000
"""Most values that a JSON document may hold: a set of the most directions has three million."""
_MAX_DEPTH = 64
_MAX_KEYS = 100_000
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - set(_STEPS))


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
    and what names nothing; `catalog.database.locate` says what is wrong with it, but has to import SQLAlchemy.
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


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to read its bytes. Raises OSError for a pipe, a device or a socket, which may never end, without waiting for it."""
    return open(path, "rb", opener=_open_regular)  # Path.open takes no opener


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        number = errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL
        reason = "it is a folder" if stat.S_ISDIR(kind) else "it is a pipe, a device or a socket, not a file"
        raise OSError(number, reason, path)
    return descriptor


def read_bounded(path: str | os.PathLike[str], most: int) -> bytes:
    """Read a whole file of at most so many bytes. Raises OSError for a larger one, and for what `open_regular` refuses."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # The files of /proc say that they are empty, and may never end.
        data = (file.read(min(most, max(size, 2**16)) + 1) or b"") if size <= most else b""
    if size > most or len(data) > most:
        found = f"{size:,}" if size > most else "more"
        raise OSError(errno.EFBIG, f"it is {found} bytes long, at most {most:,} are read", os.fspath(path))
    return data


def parse_json(text: bytes, *, values: int = MAX_VALUES) -> Any:
    """Parse JSON from outside after a look at what it costs. Raises ValueError for what is no JSON, nests deep or holds too many values.

    A document of a megabyte can take a hundred of memory once parsed; brackets and commas outside of texts tell. Keys that
    an object has twice, and NaN, are refused: readers differ in what they make of them.
    """
    bare = _STRING.sub(b"", text)
    if sum(map(bare.count, (b",", b"[", b"{"))) > values:
        message = f"it holds more than {values:,} values"
        raise ValueError(message)
    if max(accumulate(map(_STEPS.__getitem__, bare.translate(None, _NO_BRACKETS))), default=0) > _MAX_DEPTH:
        message = f"it nests deeper than {_MAX_DEPTH} levels"
        raise ValueError(message)
    return json.loads(text.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant)


def parse_as(model: type[M], text: bytes, *, values: int = MAX_VALUES) -> M:
    """Parse JSON from outside as `parse_json` does, and validate it. Raises ValueError, of which pydantic's is one."""
    return model.model_validate(parse_json(text, values=values))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs) or len(pairs) > _MAX_KEYS:
        message = "an object has a key twice" if len(found) < len(pairs) else f"an object has over {_MAX_KEYS:,} keys"
        raise ValueError(message)
    return found


def _no_constant(text: str) -> Any:
    message = f"{text} is no value in JSON"
    raise ValueError(message)


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


@contextmanager
def new_folder(
    target: Path, error: type[EigenbankError], put: Callable[[Path, Path], None] | None = None
) -> Iterator[Path]:
    """Yield an empty folder beside `target` to fill; moved to its place, by `put`, when the block ends, removed when it raises.

    Raises `error` where it cannot be written.
    """
    target = target.absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}-", dir=target.parent))
    except OSError as cause:
        problem = f"{target.parent} cannot be written to ({cause.strerror})"
        raise error(problem, outcome="nothing was written", advice="Choose another folder") from cause
    try:
        yield work
        work.chmod(0o755)
        (put or move_folder)(work, target)
    except OSError as cause:
        problem = f"{target} could not be written ({cause.strerror or cause})"
        raise error(problem, outcome="nothing was left behind") from cause
    finally:
        shutil.rmtree(work, ignore_errors=True)


def move_folder(work: Path, target: Path) -> None:
    """Move a folder to where nothing is, or an empty folder."""
    if os.name == "nt" and target.is_dir():
        target.rmdir()  # Windows replaces no folder, not even an empty one
    os.replace(work, target)


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
