"""Bringing the catalog up to date with what is published: manifests only, and only of what changed.

One listing tells the commit of every repository; what the catalog has at that commit costs nothing more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import eigenbank
from eigenbank.registry.catalog import Catalog, SetRow
from eigenbank.registry.hub.discover import Candidate, candidates
from eigenbank.registry.hub.errors import check_online
from eigenbank.registry.hub.index import from_index
from eigenbank.registry.hub.location import parse
from eigenbank.registry.hub.pull import Pulled, enter, fetch_manifest
from eigenbank.registry.hub.remote import look
from eigenbank.registry.hub.say import Say
from eigenbank.registry.hub.state import recall, remember
from eigenbank.registry.sets.folder import manifest_digest
from eigenbank.schemas.errors import HubError, OfflineError, UnreachableError

Outcome = Literal["added", "updated", "unchanged", "kept", "refused"]


@dataclass(frozen=True)
class Synced:
    """What became of one repository. `kept`: the catalog has another set of the same checkpoint, and keeps it."""

    repo: str
    commit: str
    model: str | None
    outcome: Outcome
    reason: str = ""


def sync(catalog: Catalog, *, author: str | None = None, index: str | None = None, say: Say) -> Iterator[Synced]:
    """Enter every published set into the catalog, by its manifest; tensors are fetched when a set is first loaded.

    `author` narrows it to one user's or organisation's, `index` takes the repositories from an index instead of the
    listing. Sets that were built here are kept, and of several repositories with the same checkpoint the one the
    catalog has, else the preferred. Each set is a transaction: an interrupted sync is continued by the next. A
    repository that is refused does not stop the others. Raises HubError when the Hub fails.
    """
    check_online("a sync", "the catalog is as it was")
    offered = from_index(index, author=author, say=say) if index is not None else candidates(author=author)
    rows = catalog.sets()
    at = {(row.repo, row.commit) for row in rows if row.repo is not None}
    sets = {(row.model_id, row.revision or ""): row for row in rows}
    for candidate in offered:
        if (candidate.repo, candidate.commit) in at:
            yield Synced(candidate.repo, candidate.commit, None, "unchanged")
            continue
        note = recall(candidate.repo)
        if note.commit == candidate.commit and note.version == eigenbank.__version__:
            other = sets.get((note.model or "", note.revision or ""))
            # Still true? What was kept for another set may be gone now; what was refused stays refused.
            if note.outcome == "refused" or (other is not None and not _replaceable(other, candidate.repo)):
                yield Synced(candidate.repo, candidate.commit, note.model, "unchanged", note.reason)
                continue
        yield _bring_in(catalog, candidate, sets, say)


def _bring_in(catalog: Catalog, candidate: Candidate, sets: dict[tuple[str, str], SetRow], say: Say) -> Synced:
    repo, commit = candidate.repo, candidate.commit
    try:
        remote = look(repo, commit, outcome="the catalog is as it was")
        manifest = fetch_manifest(remote, model=None, say=say)
    except (UnreachableError, OfflineError):
        raise
    except HubError as error:
        _note(repo, commit, "refused", str(error))
        return Synced(repo, commit, None, "refused", str(error))
    checkpoint = manifest.checkpoint
    key = checkpoint.model_id, checkpoint.revision or ""
    known = sets.get(key)
    if known is not None and not _replaceable(known, repo):
        where = known.repo if parse(known.location) is not None else known.location
        reason = f"the catalog has a set of {checkpoint.model_id} from {where}; `eigenbank pull {repo}` takes this one"
        _note(repo, commit, "kept", reason, checkpoint.model_id, checkpoint.revision)
        return Synced(repo, commit, checkpoint.model_id, "kept", reason)
    enter(catalog, Pulled(remote.at, manifest, manifest_digest(remote.at.folder)), commit)
    entered = catalog.get_set(*key)
    if entered is not None:
        sets[key] = entered
    return Synced(repo, commit, checkpoint.model_id, "added" if known is None else "updated")


def _replaceable(known: SetRow, repo: str) -> bool:
    """Whether a sync may replace a catalog's set by one of `repo`: only what came from there, never what lies here."""
    return parse(known.location) is not None and known.repo == repo


def _note(
    repo: str,
    commit: str,
    outcome: Literal["refused", "kept"],
    reason: str,
    model: str | None = None,
    revision: str | None = None,
) -> None:
    update = {
        "commit": commit,
        "outcome": outcome,
        "reason": reason,
        "model": model,
        "revision": revision,
        "version": eigenbank.__version__,
    }
    remember(repo, recall(repo).model_copy(update=update))
