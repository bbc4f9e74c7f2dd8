"""Find the direction set of a checkpoint, in the catalog, the Hub's cache or the Hub, pull it into the catalog, and verify it there."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eigenbank.progress import Log, log_warning
from eigenbank.registry.catalog import Catalog, SetRow
from eigenbank.registry.hub.client import (
    TAG,
    HubLocation,
    cached_commits,
    folder_of,
    hub_api,
    hub_errors,
    inspect_or_none,
    inspect_repo,
    is_commit,
    is_repo_id,
    note_commit,
    offline,
    parse_info,
    parse_location,
)
from eigenbank.registry.hub.download import DownloadedSet, cached_file, cached_set, download_set, quarantine
from eigenbank.registry.sets.folder import (
    MANIFEST,
    VECTORS,
    check_vectors_file,
    file_mismatch,
    manifest_digest,
    read_manifest,
)
from eigenbank.schemas.errors import (
    CatalogError,
    EigenbankError,
    HubError,
    OfflineError,
    UnknownNameError,
    UnreachableError,
    unknown,
)

TRUST = "EIGENBANK_TRUST"
"""Environment variable: users and organisations, separated by commas, whose sets are preferred."""
_PROJECT = "eigenbank"


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
        Candidate(info.id, info.sha or "", info.downloads, info.bases)
        for info in map(parse_info, listed)
        if info is not None and is_repo_id(info.id) and is_commit(info.sha)
    ]
    return sorted(found, key=lambda candidate: candidate.order)


def find_set(
    model: str, catalog: Catalog, *, revision: str | None = None, repo: str | None = None, log: Log = log_warning
) -> Path:
    """Return the folder of a checkpoint's set. `model` is a model id, or the repository the set is published in.

    Looks in the catalog, then in the Hub's cache, then on the Hub; a set from the latter two is added to the catalog.
    `revision` pins a commit, branch or tag of the set's repository, `repo` the repository. Raises UnknownNameError where
    there is none, HubError.
    """
    if repo is not None:
        known = catalog.get_set(model)
        if known is not None and known.repo == repo and is_commit(known.commit) and revision in (None, known.commit):
            return folder_for(known, log=log)
        found = download_set(repo, revision, model=None if repo == model else model, log=log)
        return _add_if_wanted(catalog, found, revision, log)
    known = catalog.get_set(model) or next((row for row in catalog.sets() if row.repo == model), None)
    if known is not None and revision in (None, known.commit):
        return folder_for(known, log=log)
    if known is not None and known.repo is not None:
        found = download_set(known.repo, revision, model=known.model_id, log=log)
        return _add_if_wanted(catalog, found, revision, log)
    cached = _newest_cached(model, revision, log)
    if cached is not None:
        log(f"directions of {cached.manifest.checkpoint.model_id}: the copy in the Hub's cache, {cached.at.short}")
        return _add_if_wanted(catalog, cached, revision, log)
    if not is_repo_id(model) or "/" not in model:
        raise no_set(model, catalog)
    if offline():
        raise no_set(model, catalog, "Offline mode is on, so the Hub was not asked.")
    try:
        downloaded = _download_by_name(model, revision, log)
    except UnreachableError as error:
        raise no_set(model, catalog, f"The Hub was not of help: {error}.") from error
    if downloaded is None:
        raise no_set(model, catalog, "The Hub has none either.")
    return _add_if_wanted(catalog, downloaded, revision, log)


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
    pulled = _download_named(name, catalog, revision, log)
    checkpoint = pulled.manifest.checkpoint
    before = catalog.get_set(checkpoint.model_id, checkpoint.revision or "")
    add_to_catalog(catalog, pulled, revision)
    if before is not None and parse_location(before.location) is None:
        log(f"the catalog had a set of {before.model_id} at {before.location}; it now has {pulled.at.short}")
    return pulled


def add_to_catalog(catalog: Catalog, pulled: DownloadedSet, revision: str | None = None) -> None:
    """Add a downloaded set to the catalog, in place of the one of the same checkpoint. Raises CatalogError."""
    catalog.add_set(
        pulled.manifest,
        location=str(pulled.at),
        digest=pulled.digest,
        repo=pulled.at.repo,
        commit=pulled.at.commit,
    )
    if not is_commit(revision):
        note_commit(pulled.at.repo, revision or "main", pulled.at.commit)


def _download_named(name: str, catalog: Catalog, revision: str | None, log: Log) -> DownloadedSet:
    known = catalog.get_set(name)
    if known is not None and known.repo is not None:
        return download_set(known.repo, revision, model=name, log=log)
    if not offline():
        try:
            pulled = _download_by_name(name, revision, log)
        except UnreachableError as error:
            cached = _newest_cached(name, revision, log)
            if cached is None:
                raise
            log(f"{error}. The copy in the cache is used, {cached.at.short}, which may not be the newest")
            return cached
        if pulled is None:
            remark = (
                "The Hub has no repository of that name that holds directions and that this login may see, and none with "
                "directions for such a checkpoint. For a private one log in: hf auth login."
            )
            raise no_set(name, catalog, remark)
        return pulled
    cached = _newest_cached(name, revision, log)
    if cached is None:
        problem = (
            f"no directions of {name}{f'@{revision}' if revision else ''} are in the Hub's cache on this machine, and "
            "offline mode is on (HF_HUB_OFFLINE or `offline=True`)"
        )
        raise OfflineError(problem, outcome="nothing was fetched", advice="Switch it off to fetch them")
    return cached


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


def _newest_cached(model: str, revision: str | None, log: Log) -> DownloadedSet | None:
    """Return the newest complete set in the cache of a checkpoint or repository of that name, at a commit if given."""
    return next((found for found in _cached_sets(model, log) if revision in (None, found.at.commit)), None)


def _cached_sets(model: str, log: Log) -> Iterator[DownloadedSet]:
    # The head of a manifest is enough to pass by other checkpoints' sets; what is found there is checked after.
    mark = json.dumps(model, ensure_ascii=False).encode()
    for at in cached_commits():
        with (at.folder / MANIFEST).open("rb") as file:
            head = file.read(2**16)
        if at.repo == model or mark in head:
            found = cached_set(at, log=log)
            if found is not None and model in (at.repo, found.manifest.checkpoint.model_id):
                yield found


def _add_if_wanted(catalog: Catalog, pulled: DownloadedSet, revision: str | None, log: Log) -> Path:
    """Add a downloaded set to the catalog, so that the next load gets it; a pinned one never displaces another."""
    checkpoint = pulled.manifest.checkpoint
    known = catalog.get_set(checkpoint.model_id, checkpoint.revision or "")
    if revision is None or known is None:
        try:
            add_to_catalog(catalog, pulled, revision)
        except CatalogError as error:
            log(f"{pulled.at.short} is used, but could not be added to the catalog: {error}")
    return pulled.folder


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
