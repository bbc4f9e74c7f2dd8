"""Verify the sets on this machine: re-hash every file; pull damaged ones again on request."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eigenbank.progress import Log
from eigenbank.registry.catalog import Catalog, SetRow
from eigenbank.registry.hub.client import HubLocation, folder_of, parse_location
from eigenbank.registry.hub.download import cached_file, download_set, quarantine
from eigenbank.registry.hub.pull import add_to_catalog
from eigenbank.registry.sets.folder import MANIFEST, check_vectors_file, file_mismatch, manifest_digest, read_manifest
from eigenbank.schemas.errors import EigenbankError


@dataclass(frozen=True)
class VerifyResult:
    """What was found of one set. `remote`: only its manifest is here, its other files are on the Hub."""

    model: str
    location: str
    status: Literal["intact", "remote", "damaged", "repaired"]
    problem: str = ""


def verify(row: SetRow) -> VerifyResult:
    """Check every file of a set against its manifest, the manifest against the catalog, and every vector's length."""
    at = parse_location(row.location)
    folder = folder_of(row.location)
    if at is not None and not any((folder / name).exists() for name in _names(folder)):
        return VerifyResult(row.model_id, row.location, "remote")
    problem = problem_of(folder, row.digest, at)
    return VerifyResult(row.model_id, row.location, "damaged" if problem else "intact", problem or "")


def problem_of(folder: Path, digest: str, at: HubLocation | None = None) -> str | None:
    """Say what is wrong with a set on disk; None if nothing is. `digest` is what its manifest should have."""
    try:
        manifest = read_manifest(folder)
        found = manifest_digest(folder)
        if found != digest:
            return f"{folder / MANIFEST} has sha256 {found[:12]}…, the catalog says {digest[:12]}…"
        for name, entry in manifest.files.items():
            path = folder / name
            if not path.is_file():
                return f"{path} is missing"
            wrong = file_mismatch(path, entry) or (cached_file(path).mismatch(path) if at is not None else None)
            if wrong is not None:
                return f"{path} {wrong}"
        check_vectors_file(folder, manifest)
    except EigenbankError as error:
        return str(error)
    return None


def repair(row: SetRow, catalog: Catalog, *, log: Log) -> VerifyResult:
    """Pull a damaged set again, at the commit it was published or pulled at; damaged files in the cache are quarantined.

    A set that was built here and never published cannot be repaired. Raises HubError, CatalogError.
    """
    found = verify(row)
    if found.status != "damaged":
        return found
    if row.repo is None or row.commit is None:
        problem = f"{found.problem}. It was never published, so it cannot be pulled: build it again"
        return VerifyResult(row.model_id, row.location, "damaged", problem)
    at = HubLocation(row.repo, row.commit)
    _clear(at, log)
    pulled = download_set(at.repo, at.commit, model=row.model_id, log=log)
    add_to_catalog(catalog, pulled, at.commit)
    return VerifyResult(row.model_id, str(pulled.at), "repaired", found.problem)


def _names(folder: Path) -> list[str]:
    """List the files of a set but for the manifest, which a sync brings alone."""
    try:
        return list(read_manifest(folder).files)
    except EigenbankError:
        return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _clear(at: HubLocation, log: Log) -> None:
    """Quarantine the cached files of a commit that are not what the commit or the manifest says."""
    manifest = None
    for name in [MANIFEST, *_names(at.folder)]:
        path = at.folder / name
        if not path.is_file():
            continue
        entry = manifest.files.get(name) if manifest is not None else None
        wrong = cached_file(path).mismatch(path) or (file_mismatch(path, entry) if entry is not None else None)
        if wrong is not None:
            log(f"{path} {wrong}: it was moved to {quarantine(path, at, name)}")
        elif name == MANIFEST:
            try:
                manifest = read_manifest(at.folder)
            except EigenbankError as error:
                log(f"{error}: it was moved to {quarantine(path, at, name)}")
