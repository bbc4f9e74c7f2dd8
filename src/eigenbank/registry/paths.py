"""Where eigenbank keeps its things on this machine, and names of files that every system takes."""

import os
import re
import unicodedata
from pathlib import Path

import platformdirs

from eigenbank.schemas.errors import CatalogError

_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{port}{number}" for port in ("com", "lpt") for number in "123456789¹²³"]
)
"""Names that Windows keeps for devices, whatever stands behind their first dot."""


def home() -> Path:
    """The folder of the catalog and of the sets built here: `EIGENBANK_HOME`, else the platform's data directory."""
    chosen = os.environ.get("EIGENBANK_HOME")
    if not chosen:
        return Path(platformdirs.user_data_dir("eigenbank"))
    try:
        return Path(chosen).expanduser()
    except RuntimeError:
        message = f"EIGENBANK_HOME is {chosen!r}, whose user is not known: set it to a folder"
        raise CatalogError(message) from None


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
    """The folder that holds the direction sets built on this machine."""
    return home() / "sets"


def readings_folder() -> Path:
    """The folder where labelling keeps what it has read, so that a run cut short goes on; safe to delete."""
    return home() / "readings"


def file_name(text: str) -> str:
    """A text made fit to name a file on Linux, macOS and Windows; what is fit already stays as it is.

    `/` becomes `--`, any other character than letters, digits, `_`, `.` and `-` becomes `-`, and a name of one of
    Windows' devices gets a `_` before it. Different texts can get one name, also where a file system takes `A` for `a`.
    """
    # One form of accented letters: macOS' file systems take the two forms for one name, the others for two.
    composed = unicodedata.normalize("NFC", text).replace("/", "--")
    plain = re.sub(r"[^\w.\-]", "-", composed)[:150].lstrip(".-").rstrip(".") or "unnamed"
    return f"_{plain}" if is_device(plain) else plain


def is_device(name: str) -> bool:
    """Whether Windows would take a file's name for one of its devices, as it does `aux.webp`."""
    return name.partition(".")[0].rstrip().casefold() in _DEVICES
