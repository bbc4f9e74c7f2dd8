"""This machine's sets: store one that was just made, add folders made elsewhere, remove a set, find a checkpoint's sets."""

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eigenbank.progress import Log
from eigenbank.registry.catalog import Catalog, SetEntry, SetRow
from eigenbank.registry.files import file_name, sets_folder
from eigenbank.registry.hub.client import folder_of
from eigenbank.registry.sets.bundled import is_shipped, locate, shipped_id, shipped_sets
from eigenbank.registry.sets.direction_set import DirectionSet
from eigenbank.registry.sets.folder import check_set, manifest_digest, read_manifest
from eigenbank.schemas import Label, Manifest
from eigenbank.schemas.errors import CatalogError, EigenbankError, ReplaceError, SetError, unknown

_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)[/\\]snapshots[/\\][0-9a-f]{40}$", re.ASCII)
"""The folder of a checkpoint in the Hub's cache."""
_PART = re.compile(r"unet|transformer|prior|diffusion_pytorch_model.*", re.IGNORECASE)
"""What every checkpoint calls its denoiser."""
_ENDING = r"\.(safetensors|ckpt|gguf|bin|pt|pth)$"
_COMMON = re.compile(
    r"(checkpoints?|ckpt|steps?|epochs?|iter|models?|outputs?|diffusers|final|last|best|main|ema)?[-_. ]?\d*(\.\d+)?",
    re.IGNORECASE,
)
"""What many training runs call a checkpoint, so that the folder above has to say which."""


def checkpoint_id(location: str, digest: str | None = None) -> str:
    """Return the model id of a checkpoint by its location: one that ships, a repository of the Hub, or `local/NAME`.

    NAME is the folder's or file's, with the one above where many are called that. `digest` is of its weights: the id of a
    local checkpoint ends in it, so that other weights never share one.
    """
    cached = _CACHED.search(location)
    if cached:
        return f"{cached[1]}/{cached[2]}"
    shipped = shipped_id(location)
    if shipped:
        return shipped
    parts = [part for part in re.split(r"[/\\]", location) if part and not part.endswith(":")]
    if parts:
        parts[-1] = re.sub(_ENDING, "", parts[-1])
    while len(parts) > 1 and _PART.fullmatch(parts[-1]):
        parts.pop()
    name = parts[-1] if parts else "checkpoint"
    if len(parts) > 1 and _COMMON.fullmatch(name):
        name = f"{parts[-2]}-{name}"
    return f"local/{file_name(name)[:80]}" + (f"-{digest[:8]}" if digest else "")


def hub_file_id(repo: str, name: str) -> str:
    """Return the model id of a single file in a repository, of which it may hold several."""
    return f"{repo}--{file_name(re.sub(_ENDING, '', name.rpartition('/')[2]))}"


def sets_of_checkpoint(location: str, catalog: Catalog) -> list[SetRow]:
    """Return the sets computed from the checkpoint at a location: those of its own id first, then the newest."""
    own = re.compile(rf"{re.escape(checkpoint_id(location))}(-[0-9a-f]{{8}})?")
    return sorted(catalog.sets_at(location), key=lambda row: own.fullmatch(row.model_id) is None)


def id_to_build(location: str, digest: str, catalog: Catalog) -> str:
    """Return the model id that a set of the checkpoint at a location gets: the one it was given before, else its own."""
    own = checkpoint_id(location, digest)
    known = [row.model_id for row in sets_of_checkpoint(location, catalog)]
    # An own id that ends in another digest is of weights that lay there before.
    former = re.compile(rf"{re.escape(checkpoint_id(location))}-[0-9a-f]{{8}}")
    return own if own in known else next((name for name in known if not former.fullmatch(name)), own)


def people_labels(manifest: Manifest, catalog: Catalog) -> dict[str, tuple[Label, ...]]:
    """Return the labels that people gave a set in this catalog and that the set itself does not hold, by record id."""
    people = catalog.people_labels(manifest.checkpoint.model_id)
    found: dict[str, tuple[Label, ...]] = {}
    for record in manifest.sliders if people else ():
        new = tuple(label for label in people.get(record.id, ()) if label not in record.labels)
        if new:
            found[record.id] = new
    return found


def store(
    directions: DirectionSet,
    *,
    checkpoint: Path | None = None,
    out: Path | None = None,
    replace: bool = False,
    log: Log | None = None,
) -> DirectionSet:
    """Write a set to disk and add it to the catalog. Returns it, opened where it lies.

    Without `out` it lies among this machine's sets, in a folder named by its digest: the catalog points to the old set
    until the new one is complete. Only with `replace` does it take the place of a set with labels by labelers, composites
    or previews that it lacks; `log` is told what it replaced. Raises ReplaceError, SetError or CatalogError; then nothing
    has changed.
    """
    if out is not None:
        folder = directions.save(out).folder
        assert folder is not None
        with Catalog.open() as catalog:
            try:
                _add(folder, read_manifest(folder), manifest_digest(folder), catalog, checkpoint, replace, log)
            except ReplaceError:
                _remove_folder(folder)
                raise
        return DirectionSet.open(folder)
    parent = sets_folder() / file_name(directions.model_id)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    except OSError as error:
        problem = f"{parent} cannot be written to ({error.strerror})"
        raise SetError(problem, outcome="nothing was kept", advice="Set EIGENBANK_HOME, or use `out=`") from error
    try:
        directions.save(staging / "set")
        with Catalog.open() as catalog:
            folder = store_folder(staging / "set", catalog, checkpoint=checkpoint, replace=replace, log=log)
        return DirectionSet.open(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def store_folder(
    written: Path, catalog: Catalog, *, checkpoint: Path | None = None, replace: bool = True, log: Log | None = None
) -> Path:
    """Move a set, just written on the same disk, among this machine's sets, and add it to the catalog.

    Returns its folder, named by its digest, so that the catalog points to the old set until the new one is complete.
    `replace` and `log` are as for `store`. Raises ReplaceError, SetError or CatalogError; then the catalog has not changed.
    """
    manifest, digest = read_manifest(written), manifest_digest(written)
    folder = sets_folder() / file_name(manifest.checkpoint.model_id) / digest[:16]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = not folder.exists()
        if new:
            os.replace(written, folder)
    except OSError as error:
        problem = f"{folder} cannot be written ({error.strerror})"
        raise SetError(problem, outcome="nothing was kept", advice="Make room, or set EIGENBANK_HOME") from error
    try:
        _add(folder, manifest, digest, catalog, checkpoint, replace, log)
    except ReplaceError:
        if new:
            _remove_folder(folder)
        raise
    return folder


def _add(
    folder: Path,
    manifest: Manifest,
    digest: str,
    catalog: Catalog,
    checkpoint: Path | None,
    replace: bool,
    log: Log | None,
) -> None:
    """Point the catalog to a set, and remove the one it pointed to before, if eigenbank keeps that itself."""
    model_id, revision = manifest.checkpoint.model_id, manifest.checkpoint.revision
    before = catalog.get_set(model_id, revision or "")
    others = before is not None and before.digest != digest and _other_weights(catalog, manifest)
    if others and not replace:
        problem = (
            f"the catalog's set of {model_id} is of other weights, and would be replaced by this one, under its labels"
        )
        advice = "Build this one under another name, as with `model_id=me/second`, or give `replace=True`"
        raise ReplaceError(problem, advice=advice)
    reported = replace and log is not None and before is not None and before.digest != digest
    lost = catalog.overwritten(model_id, revision, manifest) if reported else None
    catalog.add_set(
        manifest,
        location=locate(folder),
        digest=digest,
        checkpoint_path=None if checkpoint is None else locate(checkpoint),
        overwrite=replace,
    )
    if before is None:
        return
    former = folder_of(before.location)
    elsewhere = former.is_dir() and former.resolve() != folder.resolve()
    removed = elsewhere and _why_kept(before, catalog) is None and _remove_folder(former)
    if lost is not None and log is not None:
        gone = f"; gone with it: {lost}" if lost else ""
        left = "Its folder was removed" if removed else f"Its folder is left, {former}"
        back = f": eigenbank catalog rm {model_id} brings it back, as it ships" if is_shipped(before.location) else ""
        if others and catalog.people_labels(model_id):
            log(
                f"people's labels of {model_id} now name directions of other weights: look at them (eigenbank search --source human --model {model_id})"
            )
        log(f"replaced a set of {before.directions} directions of {model_id}{gone}. {left}{back}")


def _other_weights(catalog: Catalog, manifest: Manifest) -> bool:
    """Whether the catalog's set of this model and revision is of other weights, in any layer that both have."""
    before = catalog.manifest(manifest.checkpoint.model_id, manifest.checkpoint.revision or "")
    former = {} if before is None else {layer.name: layer.digests for layer in before.layers}
    return any(
        layer.digests[cast] != former[layer.name][cast]
        for layer in manifest.layers
        for cast in layer.digests.keys() & former.get(layer.name, {}).keys()
    )


@dataclass(frozen=True)
class AddedSet:
    """A set that was added to the catalog, its folder, and the other set that it replaced, if there was one."""

    manifest: Manifest
    folder: Path
    before: SetRow | None


def add_folders(
    catalog: Catalog, folders: Sequence[Path], *, checkpoint: Path | None = None, replace: bool = False
) -> list[AddedSet]:
    """Add sets that lie in folders to the catalog; they stay where they are. Every file is hashed and checked first.

    `checkpoint` is the folder of the checkpoint that they were computed from, if it is on this machine. Only with `replace`
    does one take the place of a set with labels by labelers, composites or previews that it lacks. One transaction: all
    are added, or none. Raises SetError, ReplaceError, CatalogError.
    """
    advice = "Build the set again, or copy it again from where it was built"
    found = {}
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        try:
            found[folder] = check_set(folder)
        except EigenbankError as error:
            raise SetError(error.problem, outcome="nothing was added", advice=error.advice or advice) from error
    _check_distinct(found)
    shipped = {one.location: one.checkpoint for one in shipped_sets()}
    entries = []
    added = []
    for folder, manifest in found.items():
        location, digest = locate(folder), manifest_digest(folder)
        path = shipped.get(location) if checkpoint is None else locate(checkpoint)
        entries.append(SetEntry(manifest, location, digest, path))
        before = catalog.get_set(manifest.checkpoint.model_id, manifest.checkpoint.revision or "")
        added.append(AddedSet(manifest, folder, None if before is None or before.digest == digest else before))
    catalog.add_sets(entries, overwrite=replace)
    return added


def _check_distinct(found: dict[Path, Manifest]) -> None:
    first: dict[tuple[str, str | None], Path] = {}
    for folder, manifest in found.items():
        key = manifest.checkpoint.model_id, manifest.checkpoint.revision
        other = first.setdefault(key, folder)
        if other != folder:
            problem = f"{other} and {folder} are both sets of {key[0]}, of which the catalog keeps one"
            advice = "Build shares of a checkpoint under names of their own (`model_id=`), or add one of them"
            raise SetError(problem, outcome="nothing was added", advice=advice)


@dataclass(frozen=True)
class RemovedSet:
    """A set that is no longer in the catalog.

    `waiting`: people's labels that wait for their directions to come back. `restored`: the set that ships has the place
    again. `folder`: where the set is, None where it is not on this machine now; `deleted`: as was asked for.
    """

    row: SetRow
    waiting: int
    restored: bool
    folder: Path | None
    deleted: bool


def remove_set(catalog: Catalog, model_id: str, revision: str | None = None, *, files: bool = False) -> RemovedSet:
    """Remove the set of a model from the catalog, and with `files` delete its folder, one that eigenbank keeps itself.

    A set that ships with eigenbank and was replaced by the removed one comes back, in the same transaction. People's
    labels wait for a set that has their directions. Raises UnknownNameError, with near matches; CatalogError where the
    model has several sets and none is named, or the folder is not eigenbank's to delete; then nothing has changed.
    """
    row = _the_set(catalog, model_id, revision)
    folder = folder_of(row.location)
    kept = _why_kept(row, catalog) if files else None
    if kept is not None:
        problem = f"the set of {model_id} lies at {folder}, {kept}"
        advice = "Leave out `files=True`, and delete the folder yourself if it is yours"
        raise CatalogError(problem, outcome="nothing was removed", advice=advice)
    back = _shipped(row)
    waiting = catalog.remove_set(row.model_id, row.revision, digest=row.digest, instead=back)
    deleted = files and folder.is_dir() and _remove_folder(folder)
    return RemovedSet(row, waiting, back is not None, folder if folder.is_dir() else None, deleted)


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
        problem = f"{model_id} has {len(rows)} sets, of the revisions {named}"
        raise CatalogError(problem, outcome="nothing was removed", advice="Name one: `revision=`")
    return rows[0]


def _shipped(row: SetRow) -> SetEntry | None:
    """Return what ships for the checkpoint of a set, if that is not the set itself."""
    for one in shipped_sets():
        if (one.model_id, None) == (row.model_id, row.revision) and one.digest != row.digest:
            return SetEntry(one.manifest, one.location, one.digest, one.checkpoint)
    return None


def _why_kept(row: SetRow, catalog: Catalog) -> str | None:
    """Return why the folder of a set is not eigenbank's to delete; None where it lies with those that eigenbank builds,
    `sets/MODEL/DIGEST` in its home folder, and holds that very set. A catalog from elsewhere may name another set's folder.
    """
    folder = folder_of(row.location).resolve()
    if folder.parent.parent != sets_folder().resolve():
        return f"outside {sets_folder()}, where eigenbank keeps the sets it builds"
    if not folder.is_dir():
        return None
    others = (other for other in catalog.sets() if other.number != row.number)
    try:
        same = manifest_digest(folder) == row.digest
    except OSError:
        same = False
    if not same or any(folder_of(other.location).resolve() == folder for other in others):
        return "which holds another set, or one that was changed"
    return None


def _remove_folder(folder: Path) -> bool:
    """Remove a set's folder; it disappears at once, so that no half of it is taken for the set. Returns whether it is gone."""
    try:
        away = Path(tempfile.mkdtemp(prefix=".gone-", dir=folder.parent))
        os.replace(folder, away / "set")
    except OSError:
        return not folder.exists()
    shutil.rmtree(away, ignore_errors=True)
    return True
