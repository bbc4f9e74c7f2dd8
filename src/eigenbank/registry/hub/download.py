"""Download a published set into the Hub's cache: every file is hashed before it is trusted, damaged ones are quarantined.

The client notices a wrong length but not changed bytes of equal length, so the hashing is done here.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eigenbank.progress import Log
from eigenbank.registry.files import file_name, home
from eigenbank.registry.hub.client import (
    HubLocation,
    RemoteFile,
    RemoteRepo,
    cached_commits,
    check_repo_id,
    hub_errors,
    inspect_repo,
    is_commit,
    offline,
    repo_cache,
)
from eigenbank.registry.sets.folder import MANIFEST, file_digest, file_mismatch, manifest_digest, read_manifest
from eigenbank.registry.sets.validate import check_contents, check_manifest, check_manifest_size
from eigenbank.schemas import FileEntry, Manifest
from eigenbank.schemas.errors import (
    EigenbankError,
    HubError,
    OfflineError,
    RefusedError,
    SetError,
    UnreachableError,
    explaining,
)

NOT_IMPORTED = "nothing was imported"
_OTHER_REPO = "Tell its owner, or use another repository"


@dataclass(frozen=True)
class DownloadedSet:
    """A set in the Hub's cache, checked. `digest` is the sha256 of its manifest."""

    at: HubLocation
    manifest: Manifest
    digest: str

    @property
    def folder(self) -> Path:
        return self.at.folder


def download_set(repo: str, revision: str | None = None, *, model: str | None = None, log: Log) -> DownloadedSet:
    """Download a set and check it; the catalog is left alone. `model` is the checkpoint it must be of, if you know.

    A commit that is in the cache needs no network. When the Hub is down or offline mode is on, a cached copy is used, and
    `log` is told. Raises HubError; OfflineError where there is no copy.
    """
    check_repo_id(repo)
    if offline() or is_commit(revision):
        found = _from_cache(repo, revision, log)
        if found is not None:
            _check_model(found.manifest, found.at.short, model)
            return found
    if offline():
        problem = (
            f"{repo}{f'@{revision}' if revision else ''} is not in the Hub's cache on this machine, and offline mode is "
            "on (HF_HUB_OFFLINE or `offline=True`)"
        )
        raise OfflineError(problem, outcome="nothing was fetched", advice="Switch it off to fetch it")
    try:
        with explaining(outcome="nothing was fetched"):
            remote = inspect_repo(repo, revision)
    except UnreachableError as error:
        found = _from_cache(repo, revision, log)
        if found is None:
            raise
        _check_model(found.manifest, found.at.short, model)
        log(f"{error}. The copy in the cache is used, {found.at.short}, which may not be the newest")
        return found
    manifest = download_manifest(remote, model=model, log=log)
    for name, entry in manifest.files.items():
        _download_file(remote, name, entry, log)
    with _refused(remote.at.short):
        check_contents(remote.at.folder, manifest)
    if not is_commit(revision) and re.fullmatch(r"[\w.-]+", revision or "main"):
        _write_ref(remote.at, revision or "main")
    return DownloadedSet(remote.at, manifest, manifest_digest(remote.at.folder))


def download_manifest(remote: RemoteRepo, *, model: str | None, log: Log) -> Manifest:
    """Download the manifest of a repository and check it, before anything it lists is downloaded. Raises HubError."""
    where = remote.at.short
    info = remote.files.get(MANIFEST)
    if info is None:
        problem = f"{where} holds no {MANIFEST}: it is no direction set"
        raise RefusedError(problem, outcome=NOT_IMPORTED)
    with _refused(where):
        check_manifest_size(info.size, where)
    path = _download_file(remote, MANIFEST, None, log)
    with _refused(where):
        manifest = read_manifest(path.parent)
    found = manifest.checkpoint.model_id
    if remote.bases and found not in remote.bases:
        problem = (
            f"{where} says base_model {', '.join(remote.bases)} in its card, but its manifest is of {found}: one of them "
            "is wrong"
        )
        raise RefusedError(problem, outcome=NOT_IMPORTED, advice=_OTHER_REPO)
    _check_model(manifest, where, model)
    with _refused(where):
        check_manifest(manifest, where)
    for name, entry in manifest.files.items():
        there = remote.files.get(name)
        if there is None or there.size != entry.size:
            problem = (
                f"the manifest of {where} says {name} has {entry.size:,} bytes, the repository has "
                f"{'none of that name' if there is None else f'{there.size:,}'}"
            )
            raise RefusedError(problem, outcome=NOT_IMPORTED, advice=_OTHER_REPO)
    return manifest


def _check_model(manifest: Manifest, where: str, model: str | None) -> None:
    """Raise HubError for a set of another checkpoint than the one that was asked for."""
    found = manifest.checkpoint.model_id
    if model is not None and found != model:
        problem = f"{where} is of {found}, not of {model}"
        raise HubError(problem, outcome=NOT_IMPORTED, advice="Use another repository")


@contextmanager
def _refused(where: str) -> Iterator[None]:
    """Turn what is wrong with a published set into a HubError."""
    try:
        yield
    except EigenbankError as error:
        if isinstance(error, HubError):
            raise
        if isinstance(error.__cause__, OSError):  # of this machine, not of the set
            raise HubError(error.problem, outcome=NOT_IMPORTED, advice="Run it again") from error
        problem = error.problem if where in error.problem else f"{where} was refused: {error.problem}"
        raise RefusedError(problem, outcome=NOT_IMPORTED, advice=_OTHER_REPO) from error


def _download_file(remote: RemoteRepo, name: str, entry: FileEntry | None, log: Log) -> Path:
    """Download a file into the Hub's cache, equal to what the commit and the manifest's `entry` say.

    A damaged copy in the cache is quarantined and downloaded again; a damaged download is quarantined and refused. Raises
    HubError.
    """
    from huggingface_hub import hf_hub_download

    info = remote.files.get(name)
    where = remote.at.short
    if info is None:
        problem = f"{where} lacks {name}, which its manifest lists: the set is incomplete"
        raise RefusedError(problem, outcome=NOT_IMPORTED)
    blob = repo_cache(remote.repo) / "blobs" / (info.sha256 or info.oid or "none")
    while True:
        was_there = (remote.at.folder / name).exists() or blob.exists()
        with hub_errors(f"fetching {name} of {where}", NOT_IMPORTED):
            path = Path(hf_hub_download(remote.repo, name, revision=remote.commit))
        wrong = info.mismatch(path) or (file_mismatch(path, entry) if entry is not None else None)
        if wrong is None:
            return path
        with hub_errors(f"moving {name} of {where} out of the cache", NOT_IMPORTED):
            kept = quarantine(path, remote.at, name)
        if not was_there:
            problem = f"{name} of {where} {wrong}: it was moved to {kept}"
            advice = "Run it again; if that does not help, tell its owner"
            raise HubError(problem, outcome=NOT_IMPORTED, advice=advice)
        log(f"the cached {name} of {where} {wrong}: it was moved to {kept} and is fetched again")


def quarantine(path: Path, at: HubLocation, name: str) -> Path:
    """Move a file out of the Hub's cache, so that nothing reads it and it is downloaded again. Returns its new path."""
    real = path.resolve()
    folder = home() / "quarantine"
    folder.mkdir(parents=True, exist_ok=True)
    plain = file_name(f"{at.repo}/{at.commit[:12]}/{name}")
    target = folder / f"{plain}--{file_digest(real)[:12]}"
    # The name first: when the move is cut short, a name without content is fetched again, a damaged file is not.
    if path.is_symlink():
        path.unlink()
    shutil.move(real, target)
    return target


def _write_ref(at: HubLocation, revision: str) -> None:
    """Write into the cache which commit a branch is at, where the client itself looks when it is offline."""
    ref = repo_cache(at.repo) / "refs" / revision
    with contextlib.suppress(OSError):
        if ref.is_file() and ref.read_text(encoding="utf-8") == at.commit:
            return
        ref.parent.mkdir(parents=True, exist_ok=True)
        fresh = ref.with_name(f".{ref.name}.{os.getpid()}")
        fresh.write_text(at.commit, encoding="utf-8")
        os.replace(fresh, ref)


def _from_cache(repo: str, revision: str | None, log: Log) -> DownloadedSet | None:
    """Return the set of a repository that the cache holds completely, every file hashed; None if there is none.

    Without a revision, the commit that `main` was last seen at, else the newest.
    """
    if revision is not None and not is_commit(revision):
        ref = repo_cache(repo) / "refs" / revision
        safe = re.fullmatch(r"[\w.-]+(/[\w.-]+)*", revision) and ".." not in revision
        if not safe or not ref.is_file():
            return None
        revision = ref.read_text(encoding="utf-8").strip()
    for at in cached_commits(repo):
        if revision in (None, at.commit):
            found = cached_set(at, log=log)
            if found is not None:
                return found
    return None


def cached_set(at: HubLocation, *, log: Log) -> DownloadedSet | None:
    """Return the set of one commit, if the cache holds all its files, each as its commit and its manifest say.

    A damaged file is quarantined, and `log` is told.
    """
    try:
        manifest = read_manifest(at.folder)
        check_manifest(manifest, at.short)
    except SetError:
        return None
    if not all((at.folder / name).is_file() for name in manifest.files):
        return None
    intact = True
    for name, entry in [(MANIFEST, None), *manifest.files.items()]:
        path = at.folder / name
        wrong = cached_file(path).mismatch(path) or (file_mismatch(path, entry) if entry is not None else None)
        if wrong is not None:
            log(f"the cached {name} of {at.short} {wrong}: it was moved to {quarantine(path, at, name)}")
            intact = False
    if not intact:
        return None
    with _refused(at.short):
        check_contents(at.folder, manifest)
    return DownloadedSet(at, manifest, manifest_digest(at.folder))


def cached_file(path: Path) -> RemoteFile:
    """Return what the cache says of a file: its blob is named by the digest that the commit gave."""
    name = path.resolve().name
    size = path.stat().st_size
    if len(name) == 64:
        return RemoteFile(size, None, name)
    return RemoteFile(size, name if len(name) == 40 and path.is_symlink() else None, None)
