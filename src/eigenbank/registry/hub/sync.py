"""Bring the catalog up to date with the Hub: only the manifests, and only those that changed.

One listing gives the commit of every repository; what the catalog has at that commit costs nothing more. An index can
take the place of the listing: a dataset repository whose index.json names published sets, for those who curate them.

    {"format": 1, "sets": [{"repo": "me/faces-directions", "commit": "3f2c…", "base": "acme/faces"}]}
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import FailFast, Field, StringConstraints

import eigenbank
from eigenbank.progress import Log
from eigenbank.registry.catalog import Catalog, SetRow
from eigenbank.registry.files import parse_as, read_bounded
from eigenbank.registry.hub.client import (
    check_online,
    fetch_file,
    inspect_repo,
    is_repo_id,
    parse_location,
    read_note,
    write_note,
)
from eigenbank.registry.hub.pull import Candidate, DownloadedSet, add_to_catalog, download_manifest, find_repos
from eigenbank.registry.sets.folder import manifest_digest
from eigenbank.schemas.common import Model, ModelId
from eigenbank.schemas.errors import (
    CatalogError,
    HubError,
    OfflineError,
    RefusedError,
    UnreachableError,
    explaining,
    first_problem,
)

_INDEX = "index.json"
_MAX_INDEX_BYTES = 64 * 2**20
_UNCHANGED = "the catalog has not changed"
_PATIENCE = 3
"""For how many repositories in a row the Hub may fail to answer before a sync ends."""


class IndexEntry(Model):
    """One published set, at a commit."""

    repo: ModelId
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    base: ModelId | None = None


class SetIndex(Model):
    """What index.json holds."""

    format: Literal[1]
    sets: Annotated[tuple[IndexEntry, ...], FailFast()] = Field(max_length=1_000_000)


@dataclass(frozen=True)
class SyncResult:
    """What a sync did with one repository. `kept`: the catalog has another set of the same checkpoint, and keeps it.
    `refused`: its commit holds no sound set, which no later sync need look at; `failed`: it could not be read, this time.
    """

    repo: str
    commit: str
    model: str | None
    outcome: Literal["added", "updated", "unchanged", "kept", "refused", "failed"]
    reason: str = ""


def sync(catalog: Catalog, *, author: str | None = None, index: str | None = None, log: Log) -> Iterator[SyncResult]:
    """Add every published set to the catalog, by its manifest; vectors are downloaded when a set is first loaded.

    `author` narrows it to the sets of one user or organisation, `index` takes the repositories from an index instead of
    the listing. Sets that were built here are kept, and of several repositories with the same checkpoint the one the
    catalog has, else the preferred. Each set is one transaction, so the next sync goes on where one was interrupted. A
    repository that is refused, or cannot be read now, does not stop the others. Raises HubError when the Hub does not
    answer, for several in a row.
    """
    check_online("a sync", _UNCHANGED)
    with explaining(outcome=_UNCHANGED):
        offered = read_index(index, author=author, log=log) if index is not None else find_repos(author=author)
    rows = catalog.sets()
    at = {(row.repo, row.commit) for row in rows if row.repo is not None}
    sets = {(row.model_id, row.revision or ""): row for row in rows}
    unanswered = 0
    for candidate in offered:
        if (candidate.repo, candidate.commit) in at:
            yield SyncResult(candidate.repo, candidate.commit, None, "unchanged")
            continue
        note = read_note(candidate.repo)
        if note.commit == candidate.commit and note.version == eigenbank.__version__:
            other = sets.get((note.model or "", note.revision or ""))
            # Still true? What was kept for another set may be gone now; what was refused stays refused.
            if note.outcome == "refused" or (other is not None and not _replaceable(other, candidate.repo)):
                yield SyncResult(candidate.repo, candidate.commit, note.model, "unchanged", note.reason)
                continue
        try:
            done = _add(catalog, candidate, sets, log)
            unanswered = 0
        except UnreachableError as error:
            done = SyncResult(candidate.repo, candidate.commit, None, "failed", str(error))
            unanswered += 1
        yield done
        if unanswered == _PATIENCE:
            problem = f"the Hub did not answer for {unanswered} repositories in a row: {done.reason}"
            raise UnreachableError(problem, outcome="the others were not looked at", advice="Run it again later")


def _add(catalog: Catalog, candidate: Candidate, sets: dict[tuple[str, str], SetRow], log: Log) -> SyncResult:
    repo, commit = candidate.repo, candidate.commit
    try:
        with explaining(outcome=_UNCHANGED):
            remote = inspect_repo(repo, commit)
            manifest = download_manifest(remote, model=None, log=log)
    except (OfflineError, UnreachableError):
        raise
    except RefusedError as error:
        _note(repo, commit=commit, outcome="refused", reason=str(error), model=None, revision=None)
        return SyncResult(repo, commit, None, "refused", str(error))
    except HubError as error:
        return SyncResult(repo, commit, None, "failed", str(error))
    checkpoint = manifest.checkpoint
    key = checkpoint.model_id, checkpoint.revision or ""
    known = sets.get(key)
    if known is not None and not _replaceable(known, repo):
        where = known.repo if parse_location(known.location) is not None else known.location
        reason = f"the catalog has a set of {checkpoint.model_id} from {where}; `eigenbank pull {repo}` takes this one"
        model, revision = checkpoint.model_id, checkpoint.revision
        _note(repo, commit=commit, outcome="kept", reason=reason, model=model, revision=revision)
        return SyncResult(repo, commit, checkpoint.model_id, "kept", reason)
    try:
        add_to_catalog(catalog, DownloadedSet(remote.at, manifest, manifest_digest(remote.at.folder)), commit)
    except CatalogError as error:
        return SyncResult(repo, commit, checkpoint.model_id, "failed", str(error))
    entered = catalog.get_set(*key)
    if entered is not None:
        sets[key] = entered
    return SyncResult(repo, commit, checkpoint.model_id, "added" if known is None else "updated")


def _replaceable(known: SetRow, repo: str) -> bool:
    """Whether a sync may replace a catalog's set by one of `repo`: only if it came from there, never one built here."""
    return parse_location(known.location) is not None and known.repo == repo


def _note(repo: str, **decided: str | None) -> None:
    """Remember why a commit was not taken."""
    write_note(repo, read_note(repo).model_copy(update={**decided, "version": eigenbank.__version__}))


def read_index(repo: str, *, author: str | None, log: Log) -> list[Candidate]:
    """Read the sets that an index names, in its order. Raises HubError when there is none, or it is malformed."""
    remote = inspect_repo(repo, kind="dataset")
    listed = remote.files.get(_INDEX)
    if listed is None or listed.size > _MAX_INDEX_BYTES:
        found = "none" if listed is None else f"one of {listed.size:,} bytes"
        problem = f"{repo} is no index: expected an {_INDEX} of at most {_MAX_INDEX_BYTES:,} bytes, found {found}"
        raise HubError(problem)
    path = fetch_file(repo, _INDEX, remote.commit, kind="dataset")
    wrong = listed.mismatch(path)
    if wrong is not None:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        problem = f"the {_INDEX} of {repo} {wrong}: it was removed"
        raise HubError(problem, advice="Run it again")
    try:
        index = parse_as(SetIndex, read_bounded(path, _MAX_INDEX_BYTES))
    except ValueError as error:
        problem = f"the {_INDEX} of {repo} is no index of format 1: {first_problem(error)}"
        raise HubError(problem) from error
    entries = [entry for entry in index.sets if is_repo_id(entry.repo)]
    if len(entries) < len(index.sets):
        log(f"{len(index.sets) - len(entries)} entries of the index {repo} name no repository: they are skipped")
    return [
        Candidate(entry.repo, entry.commit, 0, (entry.base,) if entry.base else ())
        for entry in entries
        if author is None or entry.repo.split("/")[0] == author
    ]
