"""Where eigenbank keeps its things on this machine."""

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """The folder of the catalog and of the sets built here: `EIGENBANK_HOME`, else the platform's data directory."""
    chosen = os.environ.get("EIGENBANK_HOME")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_data_dir("eigenbank"))


def sets_folder() -> Path:
    """The folder that holds the direction sets built on this machine."""
    return home() / "sets"
