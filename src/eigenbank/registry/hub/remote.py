"""What the Hub says of a repository at a commit, in one call; and the client it is asked through."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from eigenbank.registry.hub.errors import hub_errors
from eigenbank.registry.hub.location import Published, is_commit, is_repo_id
from eigenbank.registry.sets.folder import file_digest
from eigenbank.schemas.errors import HubError, UnreachableError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, SpaceInfo

Kind = Literal["model", "space"]
TAG = "eigenbank"
"""The tag, from `library_name` in the card, by which sets are found."""


@dataclass(frozen=True)
class RemoteFile:
    """A file as a commit has it: size in bytes, git object id, and for large files the sha256."""

    size: int
    oid: str | None
    sha256: str | None

    def mismatch(self, path: Path) -> str | None:
        """How a local file differs from what the commit says, None if it does not."""
        size = path.stat().st_size
        if size != self.size:
            return f"is {size} bytes long, its commit says {self.size}"
        if self.sha256 is not None:
            found = file_digest(path)
            return None if found == self.sha256 else f"has sha256 {found[:12]}…, its commit says {self.sha256[:12]}…"
        if self.oid is not None:
            found = git_oid(path)
            return None if found == self.oid else f"has git id {found[:12]}…, its commit says {self.oid[:12]}…"
        return None


@dataclass(frozen=True)
class Remote:
    """A repository at a commit. `bases` are the checkpoints its card says it belongs to."""

    repo: str
    commit: str
    files: dict[str, RemoteFile]
    tags: tuple[str, ...]
    bases: tuple[str, ...]

    @property
    def at(self) -> Published:
        return Published(self.repo, self.commit)


def api() -> "HfApi":
    """The client, with the user's own login. Nothing of the login is kept here."""
    from huggingface_hub import HfApi

    import eigenbank

    return HfApi(library_name="eigenbank", library_version=eigenbank.__version__)


def answers(seconds: float) -> None:
    """Ask the Hub for the least it can be asked for, without the login. Raises what the client raises."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import HfHubHTTPError

    found = get_session().get(f"{constants.ENDPOINT}/api/models", params={"limit": 1}, timeout=seconds)
    if found.status_code >= 400:
        message = f"status {found.status_code}"
        raise HfHubHTTPError(message, response=found)


def look(
    repo: str, revision: str | None = None, *, kind: Kind = "model", outcome: str = "nothing was changed"
) -> Remote:
    """Ask what a repository holds. Raises HubError, UnreachableError when the Hub does not answer."""
    check_repo_id(repo)
    with hub_errors(f"looking at {repo}{f'@{revision}' if revision else ''} on the Hub", outcome):
        ask = api().space_info if kind == "space" else api().model_info
        info: ModelInfo | SpaceInfo = ask(repo, revision=revision, files_metadata=True)
    found = told(info)
    if found is None:
        message = (
            f"what the Hub says of {repo} is not of the form expected: {outcome}. Check HF_ENDPOINT, or try again later"
        )
        raise UnreachableError(message)
    commit = found.sha or ""
    if not is_commit(commit):
        message = f"the Hub names no commit for {repo}, but {commit[:60]!r}: {outcome}. Check HF_ENDPOINT"
        raise HubError(message)
    files = {
        sibling.rfilename: RemoteFile(sibling.size or 0, sibling.blob_id, sibling.sha256) for sibling in found.siblings
    }
    return Remote(repo, commit, files, found.tags, found.bases)


def check_repo_id(repo: str) -> None:
    """Raise HubError for what cannot be a repository's id."""
    if not is_repo_id(repo):
        message = f"{repo[:200]!r} is no repository id: expected ORG/NAME of letters, digits, '_', '.' and '-'"
        raise HubError(message)


class Sibling(BaseModel):
    """A file of a repository, as the Hub lists it."""

    model_config = ConfigDict(strict=True, frozen=True)

    rfilename: str
    size: int | None
    blob_id: str | None
    sha256: str | None


class Told(BaseModel):
    """What the Hub says of a repository, each thing of the kind it should be."""

    model_config = ConfigDict(strict=True, frozen=True)

    id: str
    sha: str | None
    downloads: int
    tags: tuple[str, ...]
    siblings: tuple[Sibling, ...]

    @property
    def bases(self) -> tuple[str, ...]:
        """The base checkpoints, from the tags the Hub derives from a repository's card."""
        named = [tag.removeprefix("base_model:") for tag in self.tags if tag.startswith("base_model:")]
        return tuple(dict.fromkeys(name.rpartition(":")[2] for name in named))


def told(info: "ModelInfo | SpaceInfo") -> Told | None:
    """What the client made of the Hub's answer, checked; None where something in it is of another kind."""
    try:
        siblings = tuple(
            Sibling(
                rfilename=each.rfilename,
                size=each.size,
                blob_id=each.blob_id,
                sha256=each.lfs.sha256 if each.lfs is not None else None,
            )
            for each in info.siblings or []
        )
        return Told(
            id=info.id,
            sha=info.sha,
            downloads=getattr(info, "downloads", None) or 0,
            tags=tuple(info.tags or ()),
            siblings=siblings,
        )
    except (ValidationError, TypeError, AttributeError):  # the client hands on whatever came
        return None


def git_oid(path: Path) -> str:
    """The git object id of a file's content."""
    return blob_oid(path.read_bytes())


def blob_oid(data: bytes) -> str:
    """The git object id of a content: sha1, which here names an object and protects nothing."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
