"""Find the direction set of a checkpoint, in the catalog, the Hub's cache or the Hub, pull it into the catalog, and verify it there.

Every file is hashed before it is trusted, a damaged one is moved out of the cache: the client notices a wrong length, but not
changed bytes of equal length.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eigenbank.progress import Log, log_warning
from eigenbank.registry.catalog import Catalog, SetRow
from eigenbank.registry.files import file_name, home
from eigenbank.registry.hub.client import (
    TAG,
    HubLocation,
    RemoteFile,
    RemoteRepo,
    cached_commits,
    check_online,
    check_repo_id,
    fetch_file,
    folder_of,
    hub_api,
    hub_errors,
    inspect_or_none,
    inspect_repo,
    is_commit,
    is_repo_id,
    note_commit,
    note_seen,
    offline,
    parse_info,
    parse_location,
    read_note,
    repo_cache,
)
from eigenbank.registry.sets.folder import (
    MANIFEST,
    VECTORS,
    check_contents,
    check_manifest,
    check_manifest_size,
    check_set,
    file_digest,
    file_mismatch,
    manifest_digest,
    read_manifest,
)
from eigenbank.schemas import FileEntry, Manifest
from eigenbank.schemas.errors import (
    CatalogError,
    EigenbankError,
    HubError,
    OfflineError,
    RefusedError,
    SetError,
    UnknownNameError,
    UnreachableError,
    explaining,
    unknown,
)

TRUST = "EIGENBANK_TRUST"
"""Environment variable: users and organisations, separated by commas, whose sets are preferred."""
_PROJECT = "eigenbank"
NOT_IMPORTED = "nothing was imported"
_NOT_FETCHED = "nothing was fetched"
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


@dataclass(frozen=True)
class Candidate:
    """A repository on the Hub that says it holds directions. `commit` is the head of its main branch."""

    repo: str
    commit: str
    downloads: int
    bases: tuple[str, ...]

    @property
    def author(self) -> str:
        return self.repo.split("/")[0]

    @property
    def trusted(self) -> bool:
        """Whether its author is this project, the organisation of the checkpoint, or named in EIGENBANK_TRUST."""
        named = {name.strip() for name in os.environ.get(TRUST, "").split(",")} - {""}
        return self.author in {_PROJECT, *named, *(base.split("/")[0] for base in self.bases if "/" in base)}

    @property
    def order(self) -> tuple[bool, int, str]:
        """The sort key that puts the preferred first: the trusted, then the most downloaded."""
        return not self.trusted, -self.downloads, self.repo


def find_repos(model: str | None = None, *, author: str | None = None) -> list[Candidate]:
    """List the repositories on the Hub tagged as direction sets, of one checkpoint if you name one, the preferred first.

    Takes one request per thousand repositories. Raises HubError.
    """
    tags = [TAG] if model is None else [TAG, f"base_model:{model}"]
    what = "listing direction sets on the Hub" if model is None else f"looking for direction sets of {model} on the Hub"
    with hub_errors(what, "nothing was changed"):
        listed = list(hub_api().list_models(filter=tags, author=author, expand=["sha", "tags", "downloads"]))
    found = [
        Candidate(info.id, info.sha or "", info.downloads or 0, info.bases)
        for info in map(parse_info, listed)
        if info is not None and is_repo_id(info.id) and is_commit(info.sha)
    ]
    return sorted(found, key=lambda candidate: candidate.order)


def find_set(model: str, catalog: Catalog, *, revision: str | None = None, repo: str | None = None) -> Path:
    """Return the folder of a checkpoint's set. `model` is a model id, or the repository the set is published in.

    Looks in the catalog, then in the Hub's cache, then on the Hub; a set from the latter two is added to the catalog.
    `revision` pins a commit, branch or tag of the set's repository, `repo` the repository. Raises UnknownNameError where
    there is none, HubError.
    """
    log = log_warning
    known = catalog.get_set(model) or next((row for row in catalog.sets() if row.repo == model), None)
    if known is not None and repo in (None, known.repo) and revision in (None, known.commit):
        return folder_for(known, log=log)
    published = repo or (known.repo if known is not None else None)
    if published is not None:
        of = known.model_id if known is not None else None if repo == model else model
        found = download_set(published, revision, model=of, log=log)
    elif (cached := _cached(model, revision, log) if revision is None or is_commit(revision) else None) is not None:
        log(f"directions of {cached.manifest.checkpoint.model_id}: the copy in the Hub's cache, {cached.at.short}")
        found = cached
    else:
        found = _from_hub(model, revision, catalog, log)
    checkpoint = found.manifest.checkpoint
    # A pinned set never displaces another.
    if revision is None or catalog.get_set(checkpoint.model_id, checkpoint.revision or "") is None:
        try:
            add_to_catalog(catalog, found, revision)
        except CatalogError as error:
            log(f"{found.at.short} is used, but could not be added to the catalog: {error}")
    return found.folder


def _from_hub(model: str, revision: str | None, catalog: Catalog, log: Log) -> DownloadedSet:
    """Download the set of a model that nothing on this machine knows. Raises UnknownNameError, with how to build one."""
    if not is_repo_id(model) or "/" not in model:
        raise no_set(model, catalog)
    if offline():
        raise no_set(model, catalog, "Offline mode is on, so the Hub was not asked.")
    try:
        found = _download_by_name(model, revision, log)
    except UnreachableError as error:
        raise no_set(model, catalog, f"The Hub was not of help: {error}.") from error
    if found is None:
        raise no_set(model, catalog, "The Hub has none either.")
    return found


def folder_for(known: SetRow, *, log: Log = log_warning) -> Path:
    """Return the folder of a set in the catalog; downloaded at its commit, if only its entry is here. Raises HubError.

    A cached set that is no longer what the catalog says is downloaded again.
    """
    at = parse_location(known.location)
    if at is None:
        return folder_of(known.location)
    folder = at.folder
    if (folder / MANIFEST).is_file() and (folder / VECTORS).is_file() and manifest_digest(folder) == known.digest:
        return folder
    if not offline():
        log(f"directions of {known.model_id}: fetching {at.short}")
    return download_set(at.repo, at.commit, model=known.model_id, log=log).folder


def no_set(model: str, catalog: Catalog, remark: str = "") -> UnknownNameError:
    """Build the error for a model that has no set, with near matches and how to build one."""
    # `local/NAME` is the id of a folder without a set: it cannot be built by that name.
    advice = (
        "Build one: eigenbank build FOLDER; or take the directions of a model above, with `checkpoint=FOLDER`"
        if model.startswith("local/")
        else f"Build one: eigenbank build {model}"
    )
    hint = f"{remark}{' ' if remark else ''}{advice}"
    return unknown(kind="direction set of", name=model, known=catalog.model_ids(), hint=hint)


def pull_set(name: str, catalog: Catalog, *, revision: str | None = None, log: Log) -> DownloadedSet:
    """Download a set, given by its repository or by the model id of its checkpoint, and add it to the catalog.

    A checkpoint whose set came from a repository before is pulled from there again. Raises UnknownNameError or HubError;
    then the catalog has not changed.
    """
    known = catalog.get_set(name)
    if known is not None and known.repo is not None:
        pulled = download_set(known.repo, revision, model=name, log=log)
    else:
        found = _or_cached(lambda: _download_by_name(name, revision, log), name, revision, log)
        if found is None:
            remark = (
                "The Hub has no repository of that name that holds directions and that this login may see, and none with "
                "directions for such a checkpoint. For a private one log in: hf auth login."
            )
            raise no_set(name, catalog, remark)
        pulled = found
    checkpoint = pulled.manifest.checkpoint
    before = catalog.get_set(checkpoint.model_id, checkpoint.revision or "")
    add_to_catalog(catalog, pulled, revision)
    if before is not None and parse_location(before.location) is None:
        log(f"the catalog had a set of {before.model_id} at {before.location}; it now has {pulled.at.short}")
    return pulled


def _or_cached(
    fetch: Callable[[], DownloadedSet | None], name: str, revision: str | None, log: Log
) -> DownloadedSet | None:
    """Fetch a set, or take the copy in the Hub's cache when the Hub is down or offline mode is on. Raises HubError."""
    try:
        check_online(
            f"fetching {name}{f'@{revision}' if revision else ''}, which is not in the Hub's cache,", _NOT_FETCHED
        )
        return fetch()
    except (OfflineError, UnreachableError) as error:
        found = _cached(name, revision, log)
        if found is None:
            raise
        if not offline():
            log(f"{error}. The copy in the cache is used, {found.at.short}, which may not be the newest")
        return found


def add_to_catalog(catalog: Catalog, pulled: DownloadedSet, revision: str | None = None) -> None:
    """Add a downloaded set to the catalog, in place of the one of the same checkpoint. Raises CatalogError."""
    catalog.add_set(
        pulled.manifest,
        location=str(pulled.at),
        digest=pulled.digest,
        repo=pulled.at.repo,
        commit=pulled.at.commit,
    )
    if not is_commit(revision):  # only now: a publish takes what was noted for known here
        note_commit(pulled.at.repo, revision or "main", pulled.at.commit)


def _download_by_name(name: str, revision: str | None, log: Log) -> DownloadedSet | None:
    """Download the repository of that name, else the preferred one for the checkpoint of that name; None without any.

    One that is refused is reported to `log`, and the next is tried. Raises HubError.
    """
    # One cheap question first: it also tells at once whether there is a Hub to ask.
    if _is_set_repo(name, revision):
        return download_set(name, revision, log=log)
    candidates = find_repos(name)
    for number, chosen in enumerate(candidates):
        try:
            pulled = download_set(chosen.repo, revision, model=name, log=log)
        except (OfflineError, UnreachableError):
            raise
        except HubError as error:
            if number + 1 == len(candidates):
                raise
            log(f"{error}. The next repository is tried")
            continue
        log(_choice_message(chosen, [other for other in candidates if other is not chosen], name))
        return pulled
    return None


def _is_set_repo(model: str, revision: str | None) -> bool:
    """Whether there is a repository of that very name, and it holds directions. Raises HubError where it has no such revision."""
    # By its files, not its tags: the tags are those of the main branch.
    remote = inspect_or_none(model, revision)
    if remote is None and revision is not None:
        # It may be a checkpoint's, with other revisions than those of its set.
        main = inspect_or_none(model)
        remote = inspect_repo(model, revision) if main is not None and MANIFEST in main.files else None
    return remote is not None and MANIFEST in remote.files and VECTORS in remote.files


def _choice_message(chosen: Candidate, others: list[Candidate], model: str) -> str:
    """Say which repository was taken, and how to take another."""
    trust = "trusted" if chosen.trusted else f"not of a trusted author; {TRUST}={chosen.author} makes it one"
    text = f"directions of {model}: taken from {chosen.repo} on the Hub ({trust}; {chosen.downloads:,} downloads)"
    if others:
        names = ", ".join(other.repo for other in others[:5])
        text += f". Others: {names}{', …' if len(others) > 5 else ''}; choose with repo= or `eigenbank pull REPO`"
    return text


def _cached(name: str, revision: str | None, log: Log) -> DownloadedSet | None:
    """Return the set of a repository or checkpoint of that name that the cache holds completely, every file hashed.

    Without a revision, the commit that `main` was last seen at, else the newest. None if there is none.
    """
    # The head of a manifest is enough to pass by other checkpoints' sets; what is found there is checked after.
    mark = json.dumps(name, ensure_ascii=False).encode()
    for at in cached_commits():
        if revision not in (None, at.commit) and read_note(at.repo).seen.get(revision) != at.commit:
            continue
        with (at.folder / MANIFEST).open("rb") as file:
            head = file.read(2**16)
        if at.repo == name or mark in head:
            found = _cached_set(at, log)
            if found is not None and name in (at.repo, found.manifest.checkpoint.model_id):
                return found
    return None


def download_set(repo: str, revision: str | None = None, *, model: str | None = None, log: Log) -> DownloadedSet:
    """Download a set and check it; the catalog is left alone. `model` is the checkpoint it must be of, if you know.

    A commit that is in the cache needs no network. When the Hub is down or offline mode is on, a cached copy is used, and
    `log` is told. Raises HubError; OfflineError where there is no copy.
    """
    check_repo_id(repo)
    found = _cached(repo, revision, log) if is_commit(revision) else None
    found = found or _or_cached(lambda: _download(repo, revision, model, log), repo, revision, log)
    assert found is not None
    _check_model(found.manifest, found.at.short, model)
    return found


def _download(repo: str, revision: str | None, model: str | None, log: Log) -> DownloadedSet:
    with explaining(outcome=_NOT_FETCHED):
        remote = inspect_repo(repo, revision)
    manifest = download_manifest(remote, model=model, log=log)
    for name, entry in manifest.files.items():
        _download_file(remote, name, entry, log)
    with _refused(remote.at.short):
        check_contents(remote.at.folder, manifest)
    if not is_commit(revision):
        note_seen(repo, revision or "main", remote.commit)
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
    info = remote.files.get(name)
    where = remote.at.short
    if info is None:
        problem = f"{where} lacks {name}, which its manifest lists: the set is incomplete"
        raise RefusedError(problem, outcome=NOT_IMPORTED)
    blob = repo_cache(remote.repo) / "blobs" / (info.sha256 or info.oid or "none")
    while True:
        was_there = (remote.at.folder / name).exists() or blob.exists()
        path = fetch_file(remote.repo, name, remote.commit, NOT_IMPORTED)
        wrong = info.mismatch(path) if entry is None else file_mismatch(path, entry)
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


def _cached_set(at: HubLocation, log: Log) -> DownloadedSet | None:
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
        wrong = _cached_file(path).mismatch(path) if entry is None else file_mismatch(path, entry)
        if wrong is not None:
            log(f"the cached {name} of {at.short} {wrong}: it was moved to {quarantine(path, at, name)}")
            intact = False
    if not intact:
        return None
    with _refused(at.short):
        check_contents(at.folder, manifest)
    return DownloadedSet(at, manifest, manifest_digest(at.folder))


def _cached_file(path: Path) -> RemoteFile:
    """Return what the cache says of a file: its blob is named by the digest that the commit gave."""
    name = path.resolve().name
    size = path.stat().st_size
    if len(name) == 64:
        return RemoteFile(size, None, name)
    return RemoteFile(size, name if len(name) == 40 and path.is_symlink() else None, None)


@dataclass(frozen=True)
class VerifyResult:
    """What was found of one set. `remote`: only its manifest is here, its other files are on the Hub."""

    model: str
    location: str
    status: Literal["intact", "remote", "damaged", "repaired"]
    problem: str = ""


def verify(row: SetRow) -> VerifyResult:
    """Check every file of a set against its manifest, the manifest against the catalog, and every vector's length."""
    folder = folder_of(row.location)
    if parse_location(row.location) is not None and all(path.name == MANIFEST for path in folder.glob("*")):
        return VerifyResult(row.model_id, row.location, "remote")
    problem = _problem_of(folder, row.digest)
    return VerifyResult(row.model_id, row.location, "damaged" if problem else "intact", problem or "")


def _problem_of(folder: Path, digest: str) -> str | None:
    """Say what is wrong with a set on disk; None if nothing is. `digest` is what its manifest should have."""
    try:
        check_set(folder)
        found = manifest_digest(folder)
        if found != digest:
            return f"{folder / MANIFEST} has sha256 {found[:12]}…, the catalog says {digest[:12]}…"
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
    pulled = download_set(row.repo, row.commit, model=row.model_id, log=log)
    add_to_catalog(catalog, pulled, row.commit)
    return VerifyResult(row.model_id, str(pulled.at), "repaired", found.problem)
