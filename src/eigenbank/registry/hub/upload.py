"""Bringing a repository to hold certain files: one commit, on top of the one that was looked at, nothing uploaded twice."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from eigenbank.registry.hub.errors import hub_errors
from eigenbank.registry.hub.location import is_commit
from eigenbank.registry.hub.remote import Kind, Remote, api, blob_oid, look
from eigenbank.registry.hub.say import Say
from eigenbank.registry.sets.folder import file_digest
from eigenbank.schemas.errors import ConflictError, HubError, UnreachableError

NOTHING = "nothing was published"


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What is to be in a repository. `what` names it in messages; `card`: what its README is, and what to do where the Hub does not accept it."""

    repo: str
    files: dict[str, bytes | Path]
    kind: Kind = "model"
    what: str
    card: tuple[str, str]

    def changes(self, remote: Remote | None) -> dict[str, str]:
        """What a commit has to do, by file: `add`, `change`, or `keep` where the repository has those very bytes."""
        found = {}
        for name, content in self.files.items():
            there = None if remote is None else remote.files.get(name)
            if there is None:
                found[name] = "add"
            elif there.sha256 is not None:
                found[name] = "keep" if there.sha256 == _sha256(content) else "change"
            else:
                found[name] = "keep" if there.oid == blob_oid(as_bytes(content)) else "change"
        return found

    @property
    def sizes(self) -> dict[str, int]:
        """How many bytes each file has."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }


@dataclass(frozen=True)
class Outcome:
    """What a publish did. `changes` as of `Upload.changes`, and `delete`; `commit` None in a dry run of a new one."""

    repo: str
    commit: str | None
    changes: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        return any(change != "keep" for change in self.changes.values())


def look_or_none(repo: str, revision: str | None, kind: Kind = "model") -> Remote | None:
    """What the repository holds, None when there is none or it lacks the branch. Raises HubError."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return look(repo, revision, kind=kind, outcome=NOTHING)
    except HubError as error:
        # A token that is not accepted looks the same; then making the repository fails, and says so.
        if type(error.__cause__) in (RepositoryNotFoundError, RevisionNotFoundError):
            return None
        raise


def commit(upload: Upload, remote: Remote, changes: dict[str, str], branch: str, message: str, say: Say) -> str:
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
        with hub_errors(f"publishing to {repo}", NOTHING), card_errors(upload):
            made = api().create_commit(
                repo,
                list(operations),
                commit_message=message,
                repo_type=upload.kind,
                revision=branch,
                parent_commit=remote.commit,
            )
        if not (isinstance(made.oid, str) and is_commit(made.oid)):
            message = (
                f"the Hub answered the publishing to {repo} without naming the commit: {NOTHING}. Check HF_ENDPOINT"
            )
            raise UnreachableError(message)
    except HubError as error:
        return _after_failure(upload, remote, branch, error, say)
    return made.oid


def _after_failure(upload: Upload, remote: Remote, branch: str, error: HubError, say: Say) -> str:
    """The commit, if what was to be published is there after all: an answer can be lost after the work was done.

    Raises the error, or a ConflictError that says what was pushed meanwhile.
    """
    if not isinstance(error, (UnreachableError, ConflictError)):
        raise error
    try:
        now = look(upload.repo, branch, kind=upload.kind)
    except HubError:
        message = (
            f"{error}. Whether the commit arrived is not known, since the Hub could not be asked: run the same command "
            "again, it finds out and uploads nothing twice"
        )
        raise type(error)(message) from error
    if not any(change != "keep" for change in upload.changes(now).values()):
        say(f"{upload.repo} holds {upload.what} at {now.commit[:8]}, though the Hub's answer was not heard")
        return now.commit
    if now.commit != remote.commit:
        advice = "Look at it, then publish on top of it"
        advice += f": --parent {now.commit}" if upload.kind == "model" else ": run the same command again"
        message = (
            f"somebody pushed to {upload.repo} while this was being published: it was at {remote.commit[:8]}, and "
            f"is at {now.commit[:8]}. {NOTHING.capitalize()}, and nothing of theirs was lost. {advice}"
        )
        raise ConflictError(message) from error
    raise error


@contextmanager
def card_errors(upload: Upload) -> Iterator[None]:
    """Turn the validator's refusal of the card, a bare ValueError, into a HubError."""
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        detail = " ".join(str(error).split())[:500]
        card, advice = upload.card
        message = f"the Hub does not accept {card}: {detail}: {NOTHING}. {advice}"
        raise HubError(message) from error


def as_bytes(content: bytes | Path) -> bytes:
    """A file's content, read where it is a path."""
    return content if isinstance(content, bytes) else content.read_bytes()


def _sha256(content: bytes | Path) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else file_digest(content)
