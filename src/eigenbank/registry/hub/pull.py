"""Bringing a published set to this machine: into the Hub's cache, checked, and then into the catalog."""

import re
from dataclasses import dataclass
from pathlib import Path

from eigenbank.registry.catalog import Catalog
from eigenbank.registry.hub.check import check_content, check_manifest, check_manifest_size, differs
from eigenbank.registry.hub.errors import offline
from eigenbank.registry.hub.fetch import cached_file, fetch, point, quarantine
from eigenbank.registry.hub.location import Published, cached_commits, is_commit, repo_cache
from eigenbank.registry.hub.remote import Remote, check_repo_id, look
from eigenbank.registry.hub.say import Say
from eigenbank.registry.hub.state import remember_base
from eigenbank.registry.sets.folder import MANIFEST, manifest_digest, read_manifest
from eigenbank.schemas import Manifest
from eigenbank.schemas.errors import EigenbankError, HubError, OfflineError, SetError, UnreachableError


@dataclass(frozen=True)
class Pulled:
    """A set in the Hub's cache, checked. `digest` is its manifest's sha256."""

    at: Published
    manifest: Manifest
    digest: str

    @property
    def folder(self) -> Path:
        return self.at.folder


def bring(repo: str, revision: str | None = None, *, model: str | None = None, say: Say) -> Pulled:
    """Fetch a set and check it; the catalog is left alone. `model` is the checkpoint it must be of, if one was named.

    A commit whose set is in the cache whole is not asked for. When the Hub is down or offline mode is on, a cached set
    is used, and said to be one. Raises HubError, OfflineError where there is none.
    """
    check_repo_id(repo)
    if offline() or is_commit(revision):
        found = from_cache(repo, revision, say=say)
        if found is not None:
            check_manifest(found.manifest, found.at.short, bases=(), model=model)
            return found
    if offline():
        message = (
            f"{repo}{f'@{revision}' if revision else ''} is not in the Hub's cache on this machine, and offline mode is "
            "on (HF_HUB_OFFLINE or --offline): nothing was fetched. Switch it off to fetch it"
        )
        raise OfflineError(message)
    try:
        remote = look(repo, revision, outcome="nothing was fetched")
    except UnreachableError as error:
        found = from_cache(repo, revision, say=say)
        if found is None:
            raise
        check_manifest(found.manifest, found.at.short, bases=(), model=model)
        say(f"{error}. The copy in the cache is used, {found.at.short}, which may not be the newest")
        return found
    manifest = fetch_manifest(remote, model=model, say=say)
    for name, entry in manifest.files.items():
        fetch(remote, name, entry=entry, say=say)
    check_content(remote.at.folder, manifest, remote.at.short)
    if not is_commit(revision) and re.fullmatch(r"[\w.-]+", revision or "main"):
        point(remote.at, revision or "main")
    return Pulled(remote.at, manifest, manifest_digest(remote.at.folder))


def fetch_manifest(remote: Remote, *, model: str | None, say: Say) -> Manifest:
    """Fetch the manifest of a repository and check it, before anything it lists is fetched. Raises HubError."""
    where = remote.at.short
    told = remote.files.get(MANIFEST)
    if told is None:
        message = f"{where} holds no {MANIFEST}: it is no direction set, and nothing was imported"
        raise HubError(message)
    check_manifest_size(told.size, where)
    path = fetch(remote, MANIFEST, entry=None, say=say)
    try:
        manifest = read_manifest(path.parent)
    except SetError as error:
        message = f"{where} was not imported: {error}"
        raise HubError(message) from error
    check_manifest(manifest, where, bases=remote.bases, model=model)
    for name, entry in manifest.files.items():
        there = remote.files.get(name)
        if there is None or there.size != entry.size:
            message = (
                f"the manifest of {where} says {name} has {entry.size:,} bytes, the repository has "
                f"{'none of that name' if there is None else f'{there.size:,}'}: nothing was imported. Tell its owner, "
                "or use another repository"
            )
            raise HubError(message)
    return manifest


def from_cache(repo: str, revision: str | None, *, say: Say) -> Pulled | None:
    """The set of a repository that the cache holds whole, every file hashed; None if there is none.

    Without a revision, where `main` was last seen, else the newest. A damaged file is quarantined, and said to be.
    """
    if revision is not None and not is_commit(revision):
        place = repo_cache(repo) / "refs" / revision
        safe = re.fullmatch(r"[\w.-]+(/[\w.-]+)*", revision) and ".." not in revision
        if not safe or not place.is_file():
            return None
        revision = place.read_text(encoding="utf-8").strip()
    for at in cached_commits(repo):
        if revision in (None, at.commit):
            found = cached_set(at, say=say)
            if found is not None:
                return found
    return None


def cached_set(at: Published, *, say: Say) -> Pulled | None:
    """The set of one commit, if the cache holds it whole and every file is what its commit and manifest say."""
    try:
        manifest = read_manifest(at.folder)
        check_manifest(manifest, at.short, bases=(), model=None)
    except EigenbankError:
        return None
    if not all((at.folder / name).is_file() for name in manifest.files):
        return None
    sound = True
    for name, entry in [(MANIFEST, None), *manifest.files.items()]:
        path = at.folder / name
        wrong = cached_file(path).mismatch(path) or (differs(path, entry) if entry is not None else None)
        if wrong is not None:
            say(f"the cached {name} of {at.short} {wrong}: it was moved to {quarantine(path, at, name)}")
            sound = False
    if not sound:
        return None
    check_content(at.folder, manifest, at.short)
    return Pulled(at, manifest, manifest_digest(at.folder))


def enter(catalog: Catalog, pulled: Pulled, revision: str | None = None) -> None:
    """Put a pulled set into the catalog, in the place of the one of the same checkpoint; one transaction.

    Raises CatalogError.
    """
    catalog.add_set(
        pulled.manifest,
        location=str(pulled.at),
        digest=pulled.digest,
        repo=pulled.at.repo,
        commit=pulled.at.commit,
    )
    if not is_commit(revision):
        remember_base(pulled.at.repo, revision or "main", pulled.at.commit)
