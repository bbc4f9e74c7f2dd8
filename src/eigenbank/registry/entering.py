"""Sets that lie in folders, made elsewhere, entered into a catalog as they are: checked like pulled ones, all or none."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eigenbank.registry.catalog import Catalog, SetRow
from eigenbank.registry.catalog.content import from_manifest
from eigenbank.registry.hub.check import check_content, check_manifest, differs
from eigenbank.registry.sets.bundled import locate, shipped_sets
from eigenbank.registry.sets.folder import manifest_digest, read_manifest
from eigenbank.schemas import Manifest
from eigenbank.schemas.errors import HubError, SetError


@dataclass(frozen=True)
class Entered:
    """A set that is in the catalog now, where it lies, and the other one whose place it took, if there was one."""

    manifest: Manifest
    folder: Path
    before: SetRow | None


def add_folders(
    catalog: Catalog, folders: Sequence[Path], *, checkpoint: Path | None = None, replace: bool = False
) -> list[Entered]:
    """Enter the sets of some folders, which stay where they are. Every file is hashed and checked first.

    `checkpoint` is the folder of the checkpoint that they were computed from, where it is on this machine. Only with
    `replace` one takes the place of a set with labels by labelers, composites or previews that it lacks. One transaction:
    all are entered, or none. Raises SetError, ReplaceError, CatalogError.
    """
    found = {folder: read_checked(folder) for folder in dict.fromkeys(folder.resolve() for folder in folders)}
    _check_distinct(found)
    ships = {location: place for location, place, _, _ in shipped_sets()}
    entries = []
    entered = []
    for folder, manifest in found.items():
        location, digest = locate(folder), manifest_digest(folder)
        place = ships.get(location) if checkpoint is None else locate(checkpoint)
        entries.append((manifest, from_manifest(manifest, location=location, digest=digest, checkpoint_path=place)))
        before = catalog.get_set(manifest.checkpoint.model_id, manifest.checkpoint.revision or "")
        entered.append(Entered(manifest, folder, None if before is None or before.digest == digest else before))
    catalog.add_sets(entries, sparing=not replace)
    return entered


def read_checked(folder: Path) -> Manifest:
    """The manifest of the set in a folder, every file of which is what that says. Raises SetError."""
    manifest = read_manifest(folder)
    try:
        check_manifest(manifest, str(folder), bases=(), model=None)
        for name, entry in manifest.files.items():
            path = folder / name
            wrong = differs(path, entry) if path.is_file() else "is not there"
            if wrong is not None:
                message = f"{path} {wrong}: nothing was entered. Build the set again, or copy it again from where it was built"
                raise SetError(message)
        check_content(folder, manifest, str(folder))
    except HubError as error:
        raise SetError(str(error)) from error
    return manifest


def _check_distinct(found: dict[Path, Manifest]) -> None:
    first: dict[tuple[str, str | None], Path] = {}
    for folder, manifest in found.items():
        key = manifest.checkpoint.model_id, manifest.checkpoint.revision
        other = first.setdefault(key, folder)
        if other != folder:
            message = (
                f"{other} and {folder} are both sets of {key[0]}, of which the catalog keeps one: nothing was entered. Build "
                "shares of a checkpoint under names of their own (eigenbank build --model-id), or add one of them"
            )
            raise SetError(message)
