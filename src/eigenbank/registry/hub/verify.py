"""Are the sets on this machine still what they were? Re-hashes every file; repairs by pulling again on request."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eigenbank.registry.catalog import Catalog, SetRow
from eigenbank.registry.hub.check import differs
from eigenbank.registry.hub.fetch import cached_file, quarantine
from eigenbank.registry.hub.location import Published, folder_of, parse
from eigenbank.registry.hub.pull import bring, enter
from eigenbank.registry.hub.say import Say
from eigenbank.registry.sets.folder import MANIFEST, check_vectors_file, manifest_digest, read_manifest
from eigenbank.schemas.errors import EigenbankError

Status = Literal["sound", "remote", "damaged", "repaired"]


@dataclass(frozen=True)
class Verified:
    """What was found of one set. `remote`: only its entry is here, its files are on the Hub."""

    model: str
    location: str
    status: Status
    problem: str = ""


def verify(row: SetRow) -> Verified:
    """Hash every file of a set against its manifest, and the manifest against the catalog; look at every vector."""
    at = parse(row.location)
    folder = folder_of(row.location)
    if at is not None and not any((folder / name).exists() for name in _names(folder)):
        return Verified(row.model_id, row.location, "remote")
    problem = problem_of(folder, row.digest, at)
    return Verified(row.model_id, row.location, "damaged" if problem else "sound", problem or "")


def problem_of(folder: Path, digest: str, at: Published | None = None) -> str | None:
    """What is wrong with a set on disk, None when nothing is. `digest` is the one its manifest should have."""
    try:
        manifest = read_manifest(folder)
        found = manifest_digest(folder)
        if found != digest:
            return f"{folder / MANIFEST} has sha256 {found[:12]}…, the catalog says {digest[:12]}…"
        for name, entry in manifest.files.items():
            path = folder / name
            if not path.is_file():
                return f"{path} is missing"
            wrong = differs(path, entry) or (cached_file(path).mismatch(path) if at is not None else None)
            if wrong is not None:
                return f"{path} {wrong}"
        check_vectors_file(folder, manifest)
    except EigenbankError as error:
        return str(error)
    return None


def repair(row: SetRow, catalog: Catalog, *, say: Say) -> Verified:
    """Pull a damaged set again, at the commit it was published or pulled at; damaged cached files are quarantined.

    A set that was built here and never published cannot be repaired. Raises HubError, CatalogError.
    """
    found = verify(row)
    if found.status != "damaged":
        return found
    if row.repo is None or row.commit is None:
        problem = f"{found.problem}. It was never published, so it cannot be pulled: build it again"
        return Verified(row.model_id, row.location, "damaged", problem)
    at = Published(row.repo, row.commit)
    _clear(at, say)
    pulled = bring(at.repo, at.commit, model=row.model_id, say=say)
    enter(catalog, pulled, at.commit)
    return Verified(row.model_id, str(pulled.at), "repaired", found.problem)


def _names(folder: Path) -> list[str]:
    """The files that make a set present: all but the manifest, which a sync alone brings."""
    try:
        return list(read_manifest(folder).files)
    except EigenbankError:
        return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _clear(at: Published, say: Say) -> None:
    """Quarantine the cached files of a commit that are not what their commit or manifest says."""
    manifest = None
    for name in [MANIFEST, *_names(at.folder)]:
        path = at.folder / name
        if not path.is_file():
            continue
        entry = manifest.files.get(name) if manifest is not None else None
        wrong = cached_file(path).mismatch(path) or (differs(path, entry) if entry is not None else None)
        if wrong is not None:
            say(f"{path} {wrong}: it was moved to {quarantine(path, at, name)}")
        elif name == MANIFEST:
            try:
                manifest = read_manifest(at.folder)
            except EigenbankError as error:
                say(f"{error}: it was moved to {quarantine(path, at, name)}")
