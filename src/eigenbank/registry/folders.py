"""The folders of this machine's own sets: which are that, and removing one."""

import os
import shutil
import tempfile
from pathlib import Path

from eigenbank.registry.paths import sets_folder


def is_own(folder: Path) -> bool:
    """Whether a folder lies where eigenbank keeps the sets it builds: `sets/MODEL/DIGEST` at home."""
    return folder.resolve().parent.parent == sets_folder().resolve()


def remove_folder(folder: Path) -> bool:
    """Remove a set's folder: gone at once under its name, so that no half of it is ever taken for the set. Returns whether
    it is gone.
    """
    try:
        away = Path(tempfile.mkdtemp(prefix=".gone-", dir=folder.parent))
        os.replace(folder, away / "set")
    except OSError:
        return not folder.exists()
    shutil.rmtree(away, ignore_errors=True)
    return True
