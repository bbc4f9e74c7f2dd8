"""Taking a set out of the catalog; what ships comes back into the place that it had."""

from dataclasses import dataclass
from pathlib import Path

from eigenbank.registry.catalog import Catalog, SetRow
from eigenbank.registry.catalog.content import CheckpointData, from_manifest
from eigenbank.registry.folders import is_own, remove_folder
from eigenbank.registry.hub.location import folder_of
from eigenbank.registry.paths import sets_folder
from eigenbank.registry.sets.bundled import shipped_sets
from eigenbank.schemas.errors import CatalogError, unknown


@dataclass(frozen=True)
class Removed:
    """A set that is no longer in the catalog. `waiting`: people's labels that wait for their directions to come back.
    `restored`: the set that ships has the place again. `folder`: where the set is, None where it is not on this machine now; `deleted`: as was asked for.
    """

    row: SetRow
    waiting: int
    restored: bool
    folder: Path | None
    deleted: bool


def remove(catalog: Catalog, model_id: str, revision: str | None = None, *, files: bool = False) -> Removed:
    """Take the set of a model out of the catalog, and with `files` delete its folder, one of this machine's own.

    A set that ships with eigenbank and was replaced by the removed one is back then: one transaction. People's labels wait
    for a set that has their directions. Raises UnknownNameError, with near matches, CatalogError where the model has
    several sets and none is named, or `files` is asked for and the folder is not eigenbank's to delete; then nothing has
    changed.
    """
    row = _the_set(catalog, model_id, revision)
    folder = folder_of(row.location)
    if files and not is_own(folder):
        message = (
            f"the set of {model_id} lies at {folder}, outside {sets_folder()}, where eigenbank keeps the sets it builds: "
            "nothing was removed. Leave out --files, and delete the folder yourself if it is yours"
        )
        raise CatalogError(message)
    back = _shipped(row)
    waiting = catalog.remove_set(row.model_id, row.revision, digest=row.digest, instead=back)
    deleted = files and folder.is_dir() and remove_folder(folder)
    return Removed(row, waiting, back is not None, folder if folder.is_dir() else None, deleted)


def _the_set(catalog: Catalog, model_id: str, revision: str | None) -> SetRow:
    rows = [row for row in catalog.sets() if row.model_id == model_id]
    if not rows:
        raise unknown(kind="model", name=model_id, known=catalog.model_ids())
    if revision is not None:
        found = next((row for row in rows if (row.revision or "") == revision), None)
        if found is None:
            raise unknown(kind=f"revision of {model_id}", name=revision, known=[row.revision or "" for row in rows])
        return found
    if len(rows) > 1:
        named = ", ".join(row.revision or "'' (none)" for row in rows)
        message = (
            f"{model_id} has {len(rows)} sets, of the revisions {named}: nothing was removed. Name one: --revision"
        )
        raise CatalogError(message)
    return rows[0]


def _shipped(row: SetRow) -> CheckpointData | None:
    """What ships for the checkpoint of a set, if that is not the set itself."""
    for location, checkpoint, manifest, digest in shipped_sets():
        found = manifest.checkpoint
        if (found.model_id, found.revision) == (row.model_id, row.revision) and digest != row.digest:
            return from_manifest(manifest, location=location, digest=digest, checkpoint_path=checkpoint)
    return None
