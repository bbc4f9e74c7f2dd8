"""What comes with the package: checkpoints and their direction sets, found at run time wherever it is installed.

A location that starts with `shipped:` is relative to the package's data, so that a catalog stays right when the
environment it was made in moves or is rebuilt.
"""

from importlib.resources import files
from pathlib import Path

from eigenbank.registry.sets.folder import manifest_digest, read_manifest
from eigenbank.schemas import Manifest

PREFIX = "shipped:"
DEMO_MODEL_ID = "eigenbank/cartoon-faces-32"
"""The demo checkpoint: 32×32 cartoon faces, trained by this project."""

_FOLDERS = {DEMO_MODEL_ID: "cartoon-faces-32"}


def data_folder() -> Path:
    """The folder of the package `eigenbank.catalog`. It holds tensors to be mapped into memory: a real folder."""
    return Path(str(files("eigenbank.catalog")))


def resolve(location: str) -> Path:
    """The folder a catalog's location names: `shipped:NAME` inside the package, anything else a path."""
    return data_folder() / location.removeprefix(PREFIX) if location.startswith(PREFIX) else Path(location)


def is_shipped(location: str) -> bool:
    """Whether a catalog's location is inside the package."""
    return location.startswith(PREFIX)


def shipped_checkpoint(model_id: str) -> Path | None:
    """The folder of a shipped checkpoint, or None if no such one ships."""
    folder = _FOLDERS.get(model_id)
    return None if folder is None else data_folder() / folder


def shipped_id(location: str) -> str | None:
    """The model id of the shipped checkpoint at a catalog's location, or None if no such one ships."""
    return next((model_id for model_id, folder in _FOLDERS.items() if location == f"{PREFIX}{folder}"), None)


def locate(folder: Path) -> str:
    """The location to store in a catalog for `folder`: `shipped:NAME` when it lies in the package's data."""
    folder = folder.resolve()
    data = data_folder().resolve()
    return PREFIX + folder.relative_to(data).as_posix() if folder.is_relative_to(data) else str(folder)


def shipped_digests() -> list[str]:
    """The digest of every direction set that ships, without reading more than that takes."""
    folders = [data_folder() / name / "directions" for name in _FOLDERS.values()]
    return [manifest_digest(folder) for folder in folders if (folder / "manifest.json").is_file()]


def shipped_sets() -> list[tuple[str, str, Manifest, str]]:
    """`(location, checkpoint location, manifest, manifest digest)` of every direction set that ships."""
    found = []
    for name in _FOLDERS.values():
        folder = data_folder() / name / "directions"
        if (folder / "manifest.json").is_file():
            location = f"{PREFIX}{name}"
            found.append((f"{location}/directions", location, read_manifest(folder), manifest_digest(folder)))
    return found
