"""A set as bytes, to be carried between machines, and back: every file is checked against the manifest before it counts."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from eigenbank.registry.sets.folder import MANIFEST, file_digest, read_manifest
from eigenbank.schemas.errors import SetError

Packed = Mapping[str, bytes]
"""The files of a set by their names in it."""


def pack(folder: Path) -> dict[str, bytes]:
    """The files of a set: the manifest, and those it lists. Raises SetError where one is missing."""
    manifest = read_manifest(folder)
    try:
        return {name: (folder / name).read_bytes() for name in (MANIFEST, *manifest.files)}
    except OSError as error:
        message = (
            f"{error.filename} cannot be read ({error.strerror}): the set at {folder} is not whole. Build it again"
        )
        raise SetError(message) from error


def unpack(packed: Packed, folder: Path) -> Path:
    """Write a packed set into a new folder. Raises SetError where it is not what its manifest says; nothing is left then.

    The manifest says which files there are, and names none outside the set.
    """
    try:
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_bytes(packed[MANIFEST])
        for name, entry in read_manifest(folder).files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(packed[name])
            if file_digest(folder / name) != entry.sha256:
                message = f"{name} of a set that came from a worker is not what its manifest says: nothing was kept. Run it again"
                raise SetError(message)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, KeyError):
            message = f"a set that came from a worker lacks {error.args[0]}: nothing was kept. Run it again"
            raise SetError(message) from error
        if isinstance(error, OSError):
            message = (
                f"{folder} cannot be written ({error.strerror}): nothing was kept. Make room, or set EIGENBANK_HOME"
            )
            raise SetError(message) from error
        raise
    return folder
