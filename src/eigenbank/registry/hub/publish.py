"""Publish a set, or a page as a static Space: one commit on the Hub, on top of the one that was looked at, nothing uploaded twice."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from eigenbank.progress import Log
from eigenbank.registry.catalog import Catalog
from eigenbank.registry.hub.client import (
    Kind,
    RemoteRepo,
    check_online,
    check_repo_id,
    git_object_id,
    hub_api,
    hub_errors,
    inspect_or_none,
    inspect_repo,
    is_commit,
    note_commit,
    read_note,
)
from eigenbank.registry.hub.pull import download_manifest, folder_for, no_set
from eigenbank.registry.local import people_labels
from eigenbank.registry.sets.card import hub_config, model_card
from eigenbank.registry.sets.folder import (
    CARD,
    CONFIG,
    DISPLACEMENTS,
    MANIFEST,
    PREVIEWS,
    VECTORS,
    check_set,
    file_digest,
    manifest_digest,
    manifest_text,
)
from eigenbank.schemas import Label, Manifest
from eigenbank.schemas.errors import ConflictError, EigenbankError, HubError, UnreachableError, explaining

NOTHING = "nothing was published"
TEMPLATE = frozenset({".gitattributes", CARD, "index.html", "style.css"})
"""What the Hub itself puts into a new static Space."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """The files that a repository is to hold. `what` names them in messages.

    `card` says what its README is, and what to do where the Hub does not accept it.
    """

    repo: str
    files: dict[str, bytes | Path]
    kind: Kind = "model"
    what: str
    card: tuple[str, str]

    def changes(self, remote: RemoteRepo | None) -> dict[str, str]:
        """Compare with what the repository holds: `add`, `change`, or `keep` where it has the same bytes, by file."""
        found = {}
        for name, content in self.files.items():
            there = None if remote is None else remote.files.get(name)
            if there is None:
                found[name] = "add"
            elif there.sha256 is not None:
                found[name] = "keep" if there.sha256 == _sha256(content) else "change"
            else:
                found[name] = "keep" if there.oid == git_object_id(_as_bytes(content)) else "change"
        return found

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each file in bytes."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }


@dataclass(frozen=True)
class PublishResult:
    """What a publish did. `changes` as of `Upload.changes`, and `delete`; `commit` None in a dry run of a new one."""

    repo: str
    commit: str | None
    changes: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        return any(change != "keep" for change in self.changes.values())


def publish_set(
    target: str,
    repo: str,
    catalog: Catalog,
    *,
    with_labels: bool = False,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    parent: str | None = None,
    dry_run: bool = False,
    log: Log,
) -> PublishResult:
    """Publish a set, given by its folder or by a model id of the catalog, as one commit; note in the catalog where.

    A repository that has it already is left alone; repository (`private` or not) and branch `revision` are created if
    needed. `with_labels` publishes the labels that people gave its directions in this catalog, too, under their names.

    The commit is made on top of the one that was looked at, or not at all: a concurrent push raises ConflictError. So does
    a push by somebody since this machine last published or pulled there, unless `parent` names that commit. Raises
    UnknownNameError, SetError, HubError; nothing has changed on the Hub then, but for an empty repository or branch.
    """
    folder = Path(target).expanduser()
    if not (folder / MANIFEST).is_file():
        known = catalog.get_set(target)
        if known is None:
            raise no_set(target, catalog)
        folder = folder_for(known, log=log)
    check_online("publishing", NOTHING)
    with explaining(outcome=NOTHING):
        check_repo_id(repo)
        manifest = check_set(folder, but=(CARD, CONFIG))
        labels = people_labels(manifest, catalog)
        if labels and not with_labels:
            count = sum(len(given) for given in labels.values())
            log(
                f"{count} labels that people gave in this catalog stay here (`with_labels=True` publishes them, with their "
                "names)"
            )
        upload, manifest = _prepare(folder, manifest, repo, labels if with_labels else {})
        branch = revision or "main"
        remote = inspect_or_none(repo, revision)
        if remote is None and not dry_run:
            remote = _create_repo(repo, revision, private=private)
        changes = upload.changes(remote)
        if remote is not None:
            changes |= _removed_files(upload, remote, _check_target(manifest, remote, log))
        result = PublishResult(repo, None if remote is None else remote.commit, changes, upload.sizes)
        if result.changed and remote is not None:
            _check_parent(upload, remote, branch, parent)
        if dry_run:
            _validate_card(upload)
            return result
        assert remote is not None
        if result.changed:
            text = message or f"Directions of {manifest.checkpoint.model_id}"
            result = PublishResult(repo, push(upload, remote, changes, branch, text, log), changes, upload.sizes)
        assert result.commit is not None
        note_commit(repo, branch, result.commit)
        catalog.set_published(manifest_digest(folder), repo, result.commit)
    return result


def _prepare(
    folder: Path, manifest: Manifest, repo: str, labels: Mapping[str, tuple[Label, ...]]
) -> tuple[Upload, Manifest]:
    """Make the files of a set to publish: with more `labels`, by direction id, and a card for `repo`."""
    manifest = manifest.with_more_labels(labels)
    made = {CONFIG: hub_config(manifest).encode()}
    manifest = manifest.with_files(made)
    made[CARD] = model_card(manifest, repo).encode()
    manifest = manifest.with_files(made)
    files: dict[str, bytes | Path] = {name: folder / name for name in manifest.files}
    about_card = f"the model card of {manifest.checkpoint.model_id}"
    advice = "Build the set under an id that can be a repository's (`model_id=ORG/NAME`)"
    text = manifest_text(manifest).encode()
    files |= {**made, MANIFEST: text}
    return Upload(repo=repo, files=files, what="the set", card=(about_card, advice)), manifest


def _removed_files(upload: Upload, remote: RemoteRepo, old: Manifest | None) -> dict[str, str]:
    """What the set that is there has beside its vectors, and the new one does not: to be deleted."""
    names = [] if old is None else [name for name in old.files if _beside(name) and name in remote.files]
    return {name: "delete" for name in names if name not in upload.files}


def _beside(name: str) -> bool:
    """Whether a set may have the file or not."""
    return name == DISPLACEMENTS or name.startswith(PREVIEWS)


def _create_repo(repo: str, revision: str | None, *, private: bool) -> RemoteRepo:
    with hub_errors(f"creating the repository {repo}"):
        hub_api().create_repo(repo, private=private or None, exist_ok=True)
        if revision is not None:
            hub_api().create_branch(repo, branch=revision, exist_ok=True)
    return inspect_repo(repo, revision)


def _check_target(manifest: Manifest, remote: RemoteRepo, log: Log) -> Manifest | None:
    """Return the manifest that is there. Raises HubError for a repository that does not hold this model's set."""
    advice = "Choose another `repo=`"
    if MANIFEST not in remote.files:
        others = [name for name in remote.files if name not in (".gitattributes", CARD, VECTORS)]
        if others:
            problem = f"{remote.repo} holds no direction set but {others[0]}{' and more' if len(others) > 1 else ''}"
            raise HubError(problem, advice=advice)
        return None
    try:
        old = download_manifest(remote, model=None, log=log)
    except UnreachableError:
        raise
    except EigenbankError as error:
        problem = f"the manifest that is at {remote.at.short} cannot be read"
        raise HubError(problem, outcome=NOTHING, advice=f"{advice}. ({error.problem})") from error
    ours, theirs = manifest.checkpoint.model_id, old.checkpoint.model_id
    if ours != theirs:
        problem = f"{remote.repo} holds the directions of {theirs}, these are of {ours}"
        raise HubError(problem, advice=advice)
    return old


def _check_parent(upload: Upload, remote: RemoteRepo, branch: str, parent: str | None) -> None:
    """Raise ConflictError if somebody changed the set on the Hub since this machine last saw it."""
    if parent is not None:
        if parent != remote.commit:
            problem = f"{remote.repo} is at {remote.commit}, not at the `parent={parent}`"
            raise ConflictError(problem, advice="Look at what was pushed, then name the commit to build on")
        return
    last_seen = read_note(remote.repo).base.get(branch)
    if last_seen is None or last_seen == remote.commit:
        return
    try:
        before = inspect_repo(remote.repo, last_seen)
    except UnreachableError:
        raise
    except HubError:
        before = None  # the branch was rewritten: its history is gone
    names = {
        name for name in (*upload.files, *remote.files) if name in (MANIFEST, VECTORS, CARD, CONFIG) or _beside(name)
    }
    if before is None or any(before.files.get(name) != remote.files.get(name) for name in names):
        problem = (
            f"somebody pushed to {remote.repo} since it was last published or pulled here: it was at {last_seen[:8]}, "
            f"and is at {remote.commit[:8]}"
        )
        raise _conflict(problem, remote, "model")


def _conflict(problem: str, now: RemoteRepo, kind: Kind) -> ConflictError:
    advice = "Look at it, then publish on top of it"
    advice += f": `parent={now.commit}`" if kind == "model" else ": run the same command again"
    return ConflictError(problem, outcome=f"{NOTHING}, and nothing of theirs was lost", advice=advice)


def _validate_card(upload: Upload) -> None:
    """Ask the Hub's own validator about the card. Raises HubError."""
    from huggingface_hub import ModelCard

    with hub_errors("checking the model card"), _card_errors(upload):
        ModelCard(_as_bytes(upload.files[CARD]).decode(), ignore_metadata_errors=True).validate()


def push(upload: Upload, remote: RemoteRepo, changes: dict[str, str], branch: str, message: str, log: Log) -> str:
    """Make the changes as one commit on top of `remote`, or not at all. Returns the commit. Raises HubError."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repo = upload.repo
    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    for name, change in changes.items():
        if change == "delete":
            operations.append(CommitOperationDelete(name))
        elif change != "keep":
            operations.append(CommitOperationAdd(name, upload.files[name]))
    try:
        with hub_errors(f"publishing to {repo}", NOTHING), _card_errors(upload):
            made = hub_api().create_commit(
                repo,
                list(operations),
                commit_message=message,
                repo_type=upload.kind,
                revision=branch,
                parent_commit=remote.commit,
            )
        if not (isinstance(made.oid, str) and is_commit(made.oid)):
            problem = f"the Hub's answer to the publishing to {repo} does not name the commit"
            raise UnreachableError(problem, outcome=NOTHING, advice="Check HF_ENDPOINT")
    except (UnreachableError, ConflictError) as error:
        return _commit_after_failure(upload, remote, branch, error, log)
    return made.oid


def _commit_after_failure(upload: Upload, remote: RemoteRepo, branch: str, error: HubError, log: Log) -> str:
    """Return the commit, if what was to be published is there after all: an answer can be lost after the work was done.

    Raises the error, or a ConflictError that says what was pushed meanwhile.
    """
    try:
        now = inspect_repo(upload.repo, branch, kind=upload.kind)
    except HubError:
        error.advice = (
            f"{error.advice}. Whether the commit arrived is not known, since the Hub could not be asked: run the same "
            "command again, it finds out and uploads nothing twice"
        )
        raise error from None
    if not any(change != "keep" for change in upload.changes(now).values()):
        log(f"{upload.repo} holds {upload.what} at {now.commit[:8]}, though the Hub's answer was not heard")
        return now.commit
    if now.commit != remote.commit:
        problem = (
            f"somebody pushed to {upload.repo} while this was being published: it was at {remote.commit[:8]}, and is at "
            f"{now.commit[:8]}"
        )
        raise _conflict(problem, now, upload.kind) from error
    raise error


def check_space(repo: str) -> None:
    """Raise HubError, before anything is written, for what cannot be a Space's id, or when offline mode is on."""
    check_online("publishing", NOTHING)
    check_repo_id(repo)
    if "/" not in repo:
        problem = f"{repo!r} names no owner: expected ORG/NAME"
        raise HubError(problem, outcome=NOTHING)


def publish_space(
    folder: Path, repo: str, *, mark: str, ours: Collection[str], private: bool = False, log: Log
) -> PublishResult:
    """Make a static Space hold the files of a folder, as one commit on top of the one that was looked at.

    `mark` is the file by which a Space of ours is known, `ours` the top-level names that belong to it: files under them
    that are not in the folder are deleted; other files, and an existing card, are left alone. The Space is created if
    needed. Raises HubError, with nothing changed but for an empty Space; ConflictError where somebody else pushed
    meanwhile.
    """
    check_space(repo)
    files: dict[str, bytes | Path] = {
        path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
    }
    advice = "Give the Space's README.md the header that the Hub asks for"
    upload = Upload(repo=repo, files=files, kind="space", what="the page", card=("the Space's card", advice))
    with explaining(outcome=NOTHING):
        remote = inspect_or_none(repo, None, "space")
        new = remote is None
        if remote is None:
            with hub_errors(f"creating the Space {repo}"):
                hub_api().create_repo(
                    repo, repo_type="space", space_sdk="static", private=private or None, exist_ok=True
                )
            remote = inspect_repo(repo, kind="space")
        fresh = new or _untouched(remote)
        if not fresh and mark not in remote.files:
            strangers = sorted(set(remote.files) - {".gitattributes", CARD})
            problem = f"the Space {repo} holds {', '.join(strangers[:3]) or 'a card'}, and no page of this kind"
            raise HubError(problem, advice="Choose another name, or delete the Space")
        changes = upload.changes(remote)
        if not fresh and CARD in remote.files:
            changes[CARD] = "keep"  # its owner may have given it another title
        tops = {*ours, "style.css"} if fresh else ours
        changes |= {name: "delete" for name in remote.files if name.split("/")[0] in tops and name not in files}
        result = PublishResult(repo, remote.commit, changes, upload.sizes)
        if not result.changed:
            return result
        commit = push(upload, remote, changes, "main", "Update the gallery", log)
    return PublishResult(repo, commit, changes, upload.sizes)


def _untouched(remote: RemoteRepo) -> bool:
    """Whether a Space holds only what the Hub put there when it was created."""
    if not set(remote.files) <= TEMPLATE:
        return False
    with hub_errors(f"looking at the Space {remote.repo}"):
        return len(hub_api().list_repo_commits(remote.repo, repo_type="space")) == 1


@contextmanager
def _card_errors(upload: Upload) -> Iterator[None]:
    """Turn the validator's refusal of the card, a bare ValueError, into a HubError."""
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        detail = " ".join(str(error).split())[:500]
        card, advice = upload.card
        problem = f"the Hub does not accept {card}: {detail}"
        raise HubError(problem, outcome=NOTHING, advice=advice) from error


def _as_bytes(content: bytes | Path) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _sha256(content: bytes | Path) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_digest(content)
