"""The checkpoints and direction sets that come with the package.

A location that starts with `shipped:` is relative to the package's data, so that a catalog stays valid when the
environment moves or is rebuilt.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from eigenbank.registry.sets.folder import read_manifest
from eigenbank.schemas import Manifest

PREFIX = "shipped:"
DEMO_MODEL_ID = "eigenbank/avatars-64"
"""The demo: a text-to-image checkpoint in Stable Diffusion's layout, which draws avatars of 64×64, trained by this project."""

_FOLDERS = {DEMO_MODEL_ID: "avatars-64"}
"""The checkpoints that come with the package."""
DIGESTS = ("3deead0db5d3c14a8745c374a57a6f64864497ef90f1f2c5717ed430e817fc79",)
"""The digest of every direction set that comes with the package, so that a catalog that has them all opens without reading any."""


def data_folder() -> Path:
    """Return the folder of the package `eigenbank.catalog`: a real folder, since tensors are mapped into memory."""
    return Path(str(files("eigenbank.catalog")))


def resolve(location: str) -> Path:
    """Return the folder of a catalog's location: `shipped:NAME` inside the package, anything else a path."""
    return data_folder() / location.removeprefix(PREFIX) if location.startswith(PREFIX) else Path(location)


def is_shipped(location: str) -> bool:
    """Whether a catalog's location is inside the package."""
    return location.startswith(PREFIX)


def shipped_checkpoint(model_id: str) -> Path | None:
    """Return the folder of a checkpoint that comes with the package; None for any other."""
    folder = _FOLDERS.get(model_id)
    return None if folder is None else data_folder() / folder


def shipped_id(location: str) -> str | None:
    """Return the model id of the checkpoint at a `shipped:` location; None for any other."""
    return next((model_id for model_id, folder in _FOLDERS.items() if location == f"{PREFIX}{folder}"), None)


def locate(folder: Path) -> str:
    """Return the location of a folder for the catalog: `shipped:NAME` if it lies in the package's data, else its path."""
    folder = folder.resolve()
    data = data_folder().resolve()
    return PREFIX + folder.relative_to(data).as_posix() if folder.is_relative_to(data) else str(folder)


@dataclass(frozen=True)
class ShippedSet:
    """A direction set that comes with the package: of which model, and where set and checkpoint are for a catalog."""

    model_id: str
    location: str
    checkpoint: str
    digest: str

    @property
    def manifest(self) -> Manifest:
        """Its manifest, which a test holds to its digest."""
        return read_manifest(resolve(self.location))


def shipped_sets() -> list[ShippedSet]:
    """Return every direction set that comes with the package."""
    return [
        ShippedSet(model_id, f"{PREFIX}{folder}/directions", f"{PREFIX}{folder}", digest)
        for (model_id, folder), digest in zip(_FOLDERS.items(), DIGESTS, strict=False)
    ]
