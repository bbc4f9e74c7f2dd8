"""Where eigenbank keeps its things on this machine."""

import os
from pathlib import Path

import platformdirs

from eigenbank.schemas.errors import CatalogError


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


def sets_folder() -> Path:
    """The folder that holds the direction sets built on this machine."""
    return home() / "sets"


def readings_folder() -> Path:
    """The folder where labelling keeps what it has read, so that a run cut short goes on; safe to delete."""
    return home() / "readings"
