"""Publishing a set: one commit on the Hub, on top of the one that was looked at, with nothing uploaded twice."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from eigenbank.registry.hub.check import check_content, check_manifest
from eigenbank.registry.hub.errors import check_online, hub_errors
from eigenbank.registry.hub.pull import fetch_manifest
from eigenbank.registry.hub.remote import Remote, api, check_repo_id, look
from eigenbank.registry.hub.say import Say
from eigenbank.registry.hub.state import recall, remember_base
from eigenbank.registry.hub.upload import NOTHING, Outcome, Upload, as_bytes, card_errors, commit, look_or_none
from eigenbank.registry.own import labelled
from eigenbank.registry.sets.card import model_card
from eigenbank.registry.sets.folder import CARD, MANIFEST, PREVIEWS, VECTORS, file_digest, manifest_text, read_manifest
from eigenbank.schemas import FileEntry, Label, Manifest
from eigenbank.schemas.errors import ConflictError, EigenbankError, HubError, UnreachableError


@dataclass(frozen=True, kw_only=True)
class Publication(Upload):
    """What is to be in a set's repository: the set as it is on disk, its card made for that repository."""

    manifest: Manifest


def prepare(folder: Path, repo: str, labels: Mapping[str, tuple[Label, ...]] | None = None) -> Publication:
    """Check a set on disk whole, and make what is to be published of it, with more `labels` (by direction id) if given.

    Raises SetError or HubError; asks nobody.
    """
    check_repo_id(repo)
    manifest = read_manifest(folder)
    check_manifest(manifest, str(folder), bases=(), model=None)
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file() or (name != CARD and file_digest(path) != entry.sha256):
            message = (
                f"{path} is missing, or not what the manifest says: {NOTHING}. Build the set again, or pull it again"
            )
            raise HubError(message)
    check_content(folder, manifest, str(folder))
    manifest = labelled(manifest, labels or {})
    card = model_card(manifest, repo).encode()
    entry = FileEntry(sha256=hashlib.sha256(card).hexdigest(), size=len(card))
    manifest = manifest.model_copy(update={"files": {**manifest.files, CARD: entry}})
    files: dict[str, bytes | Path] = {name: folder / name for name in manifest.files if name != CARD}
    return Publication(
        repo=repo,
        manifest=manifest,
        files={**files, CARD: card, MANIFEST: manifest_text(manifest).encode()},
        what="the set",
        card=(
            f"the model card of {manifest.checkpoint.model_id}",
            "Build the set under an id that can be a repository's (--model-id ORG/NAME)",
        ),
    )


def publish(
    folder: Path,
    repo: str,
    *,
    labels: Mapping[str, tuple[Label, ...]] | None = None,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    parent: str | None = None,
    dry_run: bool = False,
    say: Say,
) -> Outcome:
    """Publish a set as one commit, with more `labels` than it has (by direction id) if given.

    A repository that has it already is left alone. The repository is made if needed (`private` or not), and the branch `revision`. The commit is made on top of the one
    that was looked at, or not at all: a concurrent push raises ConflictError. So does a push by somebody since this
    machine last published there, unless `parent` names that commit as one to build on. Raises HubError; nothing has
    changed on the Hub then, but for an empty repository or branch.
    """
    check_online("publishing", NOTHING)
    publication = prepare(folder, repo, labels)
    branch = revision or "main"
    remote = look_or_none(repo, revision)
    if remote is None and not dry_run:
        remote = _create(repo, revision, private=private)
    old = None if remote is None else _check_target(publication, remote, say)
    changes = publication.changes(remote)
    if remote is not None and old is not None:
        gone = [name for name in old.files if name.startswith(PREVIEWS) and name in remote.files]
        changes |= {name: "delete" for name in gone if name not in publication.files}
    sizes = publication.sizes
    outcome = Outcome(repo, None if remote is None else remote.commit, changes, sizes)
    if outcome.changed and remote is not None:
        _check_base(publication, remote, branch, parent)
    if dry_run:
        _validate(publication)
        return outcome
    assert remote is not None
    if outcome.changed:
        text = message or f"Directions of {publication.manifest.checkpoint.model_id}"
        outcome = Outcome(repo, commit(publication, remote, changes, branch, text, say), changes, sizes)
    assert outcome.commit is not None
    remember_base(repo, branch, outcome.commit)
    return outcome


def _create(repo: str, revision: str | None, *, private: bool) -> Remote:
    with hub_errors(f"making the repository {repo}", NOTHING):
        api().create_repo(repo, private=private or None, exist_ok=True)
        if revision is not None:
            api().create_branch(repo, branch=revision, exist_ok=True)
    return look(repo, revision, outcome=NOTHING)


def _check_target(publication: Publication, remote: Remote, say: Say) -> Manifest | None:
    """The manifest that is there. Raises HubError for a repository that holds something else than this model's set."""
    advice = "Choose another --repo"
    if MANIFEST not in remote.files:
        others = [name for name in remote.files if name not in (".gitattributes", CARD, VECTORS)]
        if others:
            message = (
                f"{remote.repo} holds no direction set but {others[0]}{' and more' if len(others) > 1 else ''}: "
                f"{NOTHING}. {advice}"
            )
            raise HubError(message)
        return None
    try:
        old = fetch_manifest(remote, model=None, say=say)
    except UnreachableError:
        raise
    except EigenbankError as error:
        message = f"the manifest that is at {remote.at.short} cannot be read: {NOTHING}. {advice}. ({error})"
        raise HubError(message) from error
    ours, theirs = publication.manifest.checkpoint.model_id, old.checkpoint.model_id
    if ours != theirs:
        message = f"{remote.repo} holds the directions of {theirs}, these are of {ours}: {NOTHING}. {advice}"
        raise HubError(message)
    return old


def _check_base(publication: Publication, remote: Remote, branch: str, parent: str | None) -> None:
    """Raise ConflictError if somebody changed the set on the Hub since this machine last saw it."""
    if parent is not None:
        if parent != remote.commit:
            message = (
                f"{remote.repo} is at {remote.commit}, not at the --parent {parent}: {NOTHING}. Look at what was pushed, "
                "then name the commit to build on"
            )
            raise ConflictError(message)
        return
    base = recall(remote.repo).base.get(branch)
    if base is None or base == remote.commit:
        return
    try:
        before = look(remote.repo, base, outcome=NOTHING)
    except UnreachableError:
        raise
    except HubError:
        before = None  # the branch was rewritten: its history is gone
    names = {*publication.files, *remote.files}
    if before is None or any(before.files.get(name) != remote.files.get(name) for name in names if _ours(name)):
        message = (
            f"somebody pushed to {remote.repo} since it was last published or pulled here: it was at {base[:8]}, and is "
            f"at {remote.commit[:8]}. {NOTHING.capitalize()}, and nothing of theirs was lost. Look at it, then publish on "
            f"top of it: --parent {remote.commit}"
        )
        raise ConflictError(message)


def _ours(name: str) -> bool:
    return name in (MANIFEST, VECTORS, CARD) or name.startswith(PREVIEWS)


def _validate(publication: Publication) -> None:
    """Ask the Hub's own validator about the card. Raises HubError."""
    from huggingface_hub import ModelCard

    with hub_errors("checking the model card", NOTHING), card_errors(publication):
        ModelCard(as_bytes(publication.files[CARD]).decode(), ignore_metadata_errors=True).validate()
