"""The Hub's client: where a published set lies, what a repository holds, what an error means."""

import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from eigenbank.registry.files import file_name, home, parse_as, read_bounded, replacing
from eigenbank.registry.sets.bundled import resolve
from eigenbank.registry.sets.folder import MANIFEST, file_digest
from eigenbank.schemas.errors import ConflictError, EigenbankError, HubError, OfflineError, UnreachableError

if TYPE_CHECKING:
    from huggingface_hub import HfApi


_PREFIX = "hub:"
_FORM = re.compile(r"hub:([\w.-]+/[\w.-]+|[\w.-]+)@([0-9a-f]{40})", re.ASCII)
_REPO = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubLocation:
    """A set in a repository at a commit. As a catalog's location: `hub:ORG/NAME@COMMIT`."""

    repo: str
    commit: str

    def __str__(self) -> str:
        return f"{_PREFIX}{self.repo}@{self.commit}"

    @property
    def short(self) -> str:
        """The form for people."""
        return f"{self.repo}@{self.commit[:8]}"

    @property
    def folder(self) -> Path:
        """Where the Hub's cache keeps it, whether it is there or not."""
        return repo_cache(self.repo) / "snapshots" / self.commit


def parse_location(location: str) -> HubLocation | None:
    """Read a catalog's location as one on the Hub; None for a folder on this machine."""
    found = _FORM.fullmatch(location)
    return HubLocation(found[1], found[2]) if found and is_repo_id(found[1]) else None


def is_repo_id(text: str) -> bool:
    """Whether a text can be a repository's id and is safe as part of a path: the Hub's own rules, no looser."""
    return _REPO.fullmatch(text) is not None and ".." not in text and "--" not in text


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit's full id, which never changes its meaning."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def folder_of(location: str) -> Path:
    """Return the folder of a catalog's location on this machine, whether it exists or not."""
    published = parse_location(location)
    return resolve(location) if published is None else published.folder


def cache_root() -> Path:
    """Return the folder of the Hub's cache, which every program that uses huggingface_hub shares."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repo_cache(repo: str) -> Path:
    """Return the folder of one repository in the Hub's cache."""
    return cache_root() / f"models--{repo.replace('/', '--')}"


def cached_commits() -> Iterator[HubLocation]:
    """Yield the cached commits that hold a manifest; of each repository what `main` was last seen at first, then the newest."""
    for folder in sorted(cache_root().glob("models--*")):
        name = folder.name.removeprefix("models--").replace("--", "/", 1)
        found = [path.parent for path in folder.glob(f"snapshots/*/{MANIFEST}") if path.is_file()]
        head = read_note(name).seen.get("main") if found else None
        found.sort(key=lambda path: (path.name == head, path.lstat().st_mtime), reverse=True)
        for path in found:
            if is_commit(path.name) and is_repo_id(name):
                yield HubLocation(name, path.name)


def offline() -> bool:
    """Whether offline mode is on (`HF_HUB_OFFLINE=1`), read from the environment at each call."""
    return any(
        os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def check_online(what: str, outcome: str = "") -> None:
    """Raise OfflineError if offline mode is on. `what` needs the Hub; `outcome` says what was therefore not done."""
    if offline():
        problem = f"{what} needs the Hub, and offline mode is on (HF_HUB_OFFLINE or `offline=True`)"
        raise OfflineError(problem, outcome=outcome, advice="Switch it off")


@contextmanager
def hub_errors(doing: str, outcome: str = "") -> Iterator[None]:
    """Turn what the client raises into a HubError. No URL and no token gets into its message.

    `doing` says what was tried; `outcome` what happened to the data, where no outer `explaining` says it.
    """
    try:
        yield
    except EigenbankError:
        raise
    except Exception as error:
        found = explain_error(error)
        if found is None:
            raise
        kind, reason, advice = found
        problem = f"{doing} failed: {reason}"
        raise kind(problem, outcome=outcome, advice=advice) from error


def explain_error(error: BaseException) -> tuple[type[HubError], str, str] | None:
    """Return the error to raise for an exception of the client, the reason, and the advice; None for any other's."""
    from huggingface_hub import errors as hf

    known: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], type[HubError], str, str], ...] = (
        (hf.OfflineModeIsEnabled, OfflineError, "offline mode is on (HF_HUB_OFFLINE)", "Switch it off"),
        (hf.GatedRepoError, HubError, "the repository is gated", "Ask for access on its page on the Hub, then log in: hf auth login"),
        (hf.RepositoryNotFoundError, HubError, "the Hub has no such repository, or this login may not see it",
         "Check the name; for a private one log in: hf auth login"),
        (hf.RevisionNotFoundError, HubError, "the repository has no such revision", "Check the branch, tag or commit"),
        (hf.RemoteEntryNotFoundError, HubError, "the repository lacks a file it should have", "Tell its owner, or use another one"),
        (hf.HFValidationError, HubError, "that is no repository id, which is ORG/NAME", "Check the name"),
        (hf.FileMetadataError, HubError, "what answers is not a Hub", "Check HF_ENDPOINT and the proxy settings"),
        ((json.JSONDecodeError, UnicodeDecodeError), UnreachableError, "the Hub's answer was garbled", "Run it again"),
    )  # fmt: skip
    for kinds, made, reason, advice in known:
        if isinstance(error, kinds):
            return made, reason, advice
    if isinstance(error, hf.HfHubHTTPError):
        return _status(error.response.status_code)
    # The client says that a file is not here, closes, or diffusers falls back to its cache, after something else went wrong.
    if isinstance(error, (RuntimeError, OSError)) and error.__cause__ is not None:
        inner = explain_error(error.__cause__)
        if inner is not None:
            return inner
    if isinstance(error, hf.LocalEntryNotFoundError):
        return UnreachableError, "the Hub cannot be reached", "Check the network, then try again"
    # The exceptions of the client's HTTP library: httpx2 since huggingface_hub 2, httpx before.
    if isinstance(error, (hf.HfHubHTTPError.__mro__[1], ConnectionError, TimeoutError)):
        reason = f"the connection to the Hub failed ({type(error).__name__})"
        return UnreachableError, reason, "Check the network, then run it again"
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return UnreachableError, "a file arrived with another size than was announced", "Run it again"
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return HubError, f"{error.strerror}{where}", "Make room or check the permissions, then run it again"
    if isinstance(error, (AttributeError, LookupError, TypeError, ValueError)) and _from_client(error):
        return UnreachableError, "the Hub's answer was not of the form the client expects", "Try again later"
    return None


def _from_client(error: BaseException) -> bool:
    """Whether an exception came out of huggingface_hub, because of a bad answer, and not from a bug of ours."""
    modules = []
    at = error.__traceback__
    while at is not None:
        modules.append(str(at.tb_frame.f_globals.get("__name__", "")).partition(".")[0])
        at = at.tb_next
    return "huggingface_hub" in modules and modules[-1] != "eigenbank"


def _status(status: int) -> tuple[type[HubError], str, str]:
    if status == 401:
        return HubError, "the Hub does not accept this login (401)", "Log in: hf auth login"
    if status == 403:
        return HubError, "this login may not do that (403)", "Use a token with write permission for that name"
    if status == 412:
        return ConflictError, "somebody else pushed meanwhile (412)", "Look at what they pushed, then run it again"
    if status == 429:
        return UnreachableError, "the Hub was asked too often (429)", "Wait some minutes, then run it again"
    if status >= 500:
        return UnreachableError, f"the Hub is failing (status {status})", "Run it again later"
    return HubError, f"the Hub refused (status {status})", "Check the names, then run it again"


Kind = Literal["model", "dataset", "space"]
TAG = "eigenbank"
"""The tag, from `library_name` in the card, by which sets are found."""
MAX_ANSWER = 32 * 2**20
"""Longest answer in JSON that is read: the list of a repository of a hundred thousand files."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a commit: size in bytes, git object id, and for large files the sha256."""

    size: int
    oid: str | None
    sha256: str | None

    def mismatch(self, path: Path) -> str | None:
        """Say how a local file differs from the commit's; None if it does not."""
        size = path.stat().st_size
        if size != self.size:
            return f"is {size} bytes long, its commit says {self.size}"
        if self.sha256 is not None:
            found = file_digest(path)
            return None if found == self.sha256 else f"has sha256 {found[:12]}…, its commit says {self.sha256[:12]}…"
        if self.oid is not None:
            found = git_object_id(path.read_bytes())
            return None if found == self.oid else f"has git id {found[:12]}…, its commit says {self.oid[:12]}…"
        return None


@dataclass(frozen=True)
class RemoteRepo:
    """A repository at a commit. `bases` are the checkpoints its card names as base models."""

    repo: str
    commit: str
    files: dict[str, RemoteFile]
    bases: tuple[str, ...]

    @property
    def at(self) -> HubLocation:
        return HubLocation(self.repo, self.commit)


def hub_api() -> "HfApi":
    """Return the Hub's client, with the user's own login, of which nothing is kept here."""
    from huggingface_hub import HfApi, get_session

    import eigenbank

    hooks = get_session().event_hooks
    if _bound_answer not in hooks["response"]:
        get_session().event_hooks = {**hooks, "response": [*hooks["response"], _bound_answer]}
    return HfApi(library_name="eigenbank", library_version=eigenbank.__version__)


def _bound_answer(response: Any) -> None:
    """Let an answer in JSON end in an error where it is longer than any should be: the client would read whatever comes."""
    if "json" in response.headers.get("content-type", ""):
        packed = response.headers.get("content-encoding", "identity") != "identity"
        library = sys.modules[type(response).__module__.partition(".")[0]]  # httpx2, or httpx before
        kind = type("BoundedStream", (_BoundedStream, library.SyncByteStream), {})
        response.stream = kind(response.stream, MAX_ANSWER // (8 if packed else 1))


class _BoundedStream:
    """The body of an answer. Raises HubError once more than `most` bytes came."""

    def __init__(self, body: Any, most: int) -> None:
        self._body, self._most = body, most

    def __iter__(self) -> Iterator[bytes]:
        for part in self._body:
            self._most -= len(part)
            if self._most < 0:
                problem = f"the Hub's answer is longer than the {MAX_ANSWER:,} bytes that are read"
                raise HubError(problem, advice="Tell the repository's owner, or check HF_ENDPOINT")
            yield part

    def close(self) -> None:
        """Close the connection's side of it."""
        self._body.close()


def ping(seconds: float) -> None:
    """Send the Hub the smallest request there is, without the login. Raises what the client raises."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import HfHubHTTPError

    found = get_session().get(f"{constants.ENDPOINT}/api/models", params={"limit": 1}, timeout=seconds)
    if found.status_code >= 400:
        message = f"status {found.status_code}"
        raise HfHubHTTPError(message, response=found)


def inspect_repo(repo: str, revision: str | None = None, *, kind: Kind = "model") -> RemoteRepo:
    """Ask which commit and files a repository has. Raises HubError; UnreachableError when the Hub does not answer."""
    check_repo_id(repo)
    with hub_errors(f"looking at {repo}{f'@{revision}' if revision else ''} on the Hub"):
        found = parse_info(hub_api().repo_info(repo, revision=revision, repo_type=kind, files_metadata=True))
    if found is None:
        problem = f"the Hub's answer about {repo} is not of the form expected"
        raise UnreachableError(problem, advice="Check HF_ENDPOINT, or try again later")
    commit = found.sha or ""
    if not is_commit(commit):
        problem = f"the Hub names no commit for {repo}, but {commit[:60]!r}"
        raise HubError(problem, advice="Check HF_ENDPOINT")
    files = {
        each.rfilename: RemoteFile(each.size or 0, each.blob_id, each.lfs.sha256 if each.lfs else None)
        for each in found.siblings or []
    }
    return RemoteRepo(repo, commit, files, found.bases)


def inspect_or_none(repo: str, revision: str | None = None, kind: Kind = "model") -> RemoteRepo | None:
    """Ask which commit and files a repository has; None when it or its branch does not exist. Raises HubError."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return inspect_repo(repo, revision, kind=kind)
    except HubError as error:
        # A token that is not accepted looks the same; then creating the repository fails, and says so.
        if type(error.__cause__) in (RepositoryNotFoundError, RevisionNotFoundError):
            return None
        raise


def fetch_file(repo: str, name: str, revision: str | None, outcome: str = "", kind: Kind = "model") -> Path:
    """Return a file of a repository from the client's cache, fetched if need be. Raises HubError; `outcome` as in `hub_errors`."""
    from huggingface_hub import hf_hub_download

    with hub_errors(f"fetching {name} of {repo}{f'@{revision}' if revision else ''}", outcome):
        return Path(hf_hub_download(repo, name, repo_type=kind, revision=revision))


def check_repo_id(repo: str) -> None:
    """Raise HubError for what cannot be a repository's id."""
    if not is_repo_id(repo):
        message = f"{repo[:200]!r} is no repository id: expected ORG/NAME of letters, digits, '_', '.' and '-'"
        raise HubError(message)


class _Answer(BaseModel):
    """Part of the client's answer, with every field's type checked: the client passes on whatever the server sent."""

    model_config = ConfigDict(strict=True, frozen=True, from_attributes=True)


class _Lfs(_Answer):
    sha256: str


class _Sibling(_Answer):
    rfilename: str
    size: int | None
    blob_id: str | None
    lfs: _Lfs | None


class RepoInfo(_Answer):
    """The Hub's answer about a repository."""

    id: str
    sha: str | None
    downloads: int | None = None
    tags: list[str] | None
    siblings: list[_Sibling] | None

    @property
    def bases(self) -> tuple[str, ...]:
        """The base models, from the tags that the Hub derives from a repository's card."""
        named = [tag.removeprefix("base_model:") for tag in self.tags or [] if tag.startswith("base_model:")]
        return tuple(dict.fromkeys(name.rpartition(":")[2] for name in named))


def parse_info(info: object) -> RepoInfo | None:
    """Check the types in the client's answer about a repository; None where a field is of another type."""
    try:
        return RepoInfo.model_validate(info)
    except ValidationError:
        return None


def git_object_id(data: bytes) -> str:
    """Return the git object id of a file's bytes: a sha1, which here names an object and protects nothing."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class RepoNote(BaseModel):
    """What this machine remembers of a repository; all of it can be deleted, then the next run asks the Hub again.

    `base`: the commit that a publish left or a pull brought into the catalog last, by branch; `seen`: the last that was downloaded. `commit`, `outcome`, `reason`: why a sync did
    not take a commit; `model` and `revision`: the set that commit holds. `version`: the eigenbank that decided; another
    version decides anew.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: dict[str, str] = {}
    seen: dict[str, str] = {}
    commit: str | None = None
    outcome: Literal["refused", "kept"] | None = None
    reason: str = ""
    model: str | None = None
    revision: str | None = None
    version: str = ""


def read_note(repo: str) -> RepoNote:
    """Read the note on a repository; an empty one where there is none or it cannot be read."""
    try:
        return parse_as(RepoNote, read_bounded(_note_file(repo), 2**20), values=10_000)
    except (OSError, ValueError):
        return RepoNote()


def write_note(repo: str, note: RepoNote) -> None:
    """Replace the note on a repository, atomically. Where the home folder cannot be written to, nothing is remembered."""
    path = _note_file(repo)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as work:
            work.write_text(note.model_dump_json(indent=1), encoding="utf-8")


def note_seen(repo: str, branch: str, commit: str) -> None:
    """Remember the commit that was last downloaded from a branch."""
    note = read_note(repo)
    write_note(repo, note.model_copy(update={"seen": {**note.seen, branch: commit}}))


def note_commit(repo: str, branch: str, commit: str) -> None:
    """Remember the commit that a publish left on a branch, or a pull brought from it: what is there later is somebody else's."""
    note = read_note(repo)
    write_note(
        repo, note.model_copy(update={name: {**getattr(note, name), branch: commit} for name in ("base", "seen")})
    )


def _note_file(repo: str) -> Path:
    from huggingface_hub import constants

    hub = hashlib.sha256(constants.ENDPOINT.encode()).hexdigest()[:8]
    return home() / "hub" / hub / f"{file_name(repo)}.json"
